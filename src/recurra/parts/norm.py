"""Norms over the last axis, each with the residual sum in front of it; by their names in a config."""

import torch
from torch import Tensor, nn

from recurra.ops.norm import EPS, LAYER_EPS, add_layer_norm, add_rms_norm, head_norm
from recurra.parts.kept import Kept

__all__ = ["NORMS", "HeadNorm", "LayerNorm", "RMSNorm"]


class RMSNorm(nn.Module):
    """y = w x / sqrt(mean(x^2) + eps) over the last axis (arXiv 1910.07467, equation 4); eps 0: 1e-6."""

    def __init__(self, width: int, eps: float = 0.0) -> None:
        super().__init__()
        self.eps = eps or EPS
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        return self.after(x, None)[1]

    def after(self, x: Tensor, added: Tensor | None) -> tuple[Tensor, Tensor]:
        """s = x + added (None: x itself), and the norm of s."""
        return add_rms_norm(x, added, self.weight, self.eps)

    def extra_repr(self) -> str:
        return f"{len(self.weight)}"


class LayerNorm(nn.Module):
    """y = w (x - mean(x)) / sqrt(var(x) + eps) + b over the last axis (arXiv 1607.06450); eps 0: 1e-5."""

    def __init__(self, width: int, eps: float = 0.0) -> None:
        super().__init__()
        self.eps = eps or LAYER_EPS
        self.weight, self.bias = nn.Parameter(torch.ones(width)), nn.Parameter(torch.zeros(width))

    def forward(self, x: Tensor) -> Tensor:
        return self.after(x, None)[1]

    def after(self, x: Tensor, added: Tensor | None) -> tuple[Tensor, Tensor]:
        """s = x + added (None: x itself), and the norm of s."""
        return add_layer_norm(x, added, self.weight, self.bias, self.eps)

    def extra_repr(self) -> str:
        return f"{len(self.weight)}"


class HeadNorm(nn.Module):
    """y = w (x - mean(x)) / sqrt(var(x) + eps) + b for each head of x [..., H, C] by itself; y [..., H C].

    Without a bias, b = 0.
    """

    def __init__(self, heads: int, channels: int, eps: float = LAYER_EPS, bias: bool = True) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(heads, channels))
        self.bias = nn.Parameter(torch.zeros(heads, channels)) if bias else None
        self._kept = Kept()

    def forward(self, x: Tensor) -> Tensor:
        weight, bias = self.weight, self.bias
        zeros = bias if bias is not None else self._kept(lambda: torch.zeros_like(weight), weight)
        return head_norm(x, weight, zeros, self.eps).flatten(-2)

    def extra_repr(self) -> str:
        return "{}, {}".format(*self.weight.shape)


NORMS: dict[str, type[RMSNorm] | type[LayerNorm]] = {"rms": RMSNorm, "layer": LayerNorm}
