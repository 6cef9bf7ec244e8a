"""Norms over the last axis, by their names in a config."""

import torch
from torch import Tensor, nn
from torch.nn.functional import rms_norm

__all__ = ["NORMS", "RMSNorm"]


class RMSNorm(nn.Module):
    """y = w x / sqrt(mean(x^2) + 1e-6) over the last axis (arXiv 1910.07467, equation 4)."""

    EPS = 1e-6

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        return rms_norm(x, self.weight.shape, self.weight, self.EPS)

    def extra_repr(self) -> str:
        return f"{len(self.weight)}"


NORMS: dict[str, type[nn.Module]] = {"rms": RMSNorm, "layer": nn.LayerNorm}
