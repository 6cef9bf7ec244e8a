"""Heads: what a model says of its last hidden layer, and how wrong that was."""

import math

import torch
from torch import Tensor, nn

from recurra.models.cross_entropy import IGNORED, capped, linear_cross_entropy
from recurra.ops.linear import state_dtype
from recurra.ops.project import project
from recurra.ops.quantized import Quantized, wide
from recurra.parts.embedding import Embedding
from recurra.parts.norm import NORMS

__all__ = ["LanguageHead"]


class LanguageHead(nn.Module):
    """logits = W norm(x), x [..., width], without a bias, as the authors of minRNN have it.

    tied: W is the weight of that embedding; it stays the embedding's parameter and is saved once. norm "":
    none. eps: of the norm, 0: its own. cap: logits = cap tanh(W norm(x) / cap), as xLSTM 7B has it (arXiv
    2503.13427), 0: as they are.
    """

    weight: nn.Parameter | None

    def __init__(
        self,
        width: int,
        vocabulary: int,
        norm: str = "rms",
        tied: Embedding | None = None,
        eps: float = 0.0,
        cap: float = 0.0,
    ) -> None:
        super().__init__()
        self.norm: nn.Module = NORMS[norm](width, eps) if norm else nn.Identity()
        self.norm_name, self.width = norm, width
        self.eps, self.cap = eps, cap
        # In a tuple, so that it is not registered a second time.
        self._tied: tuple[Embedding, ...] = () if tied is None else (tied,)
        bound = 1 / math.sqrt(width)
        free = nn.Parameter(torch.empty(vocabulary, width).uniform_(-bound, bound))
        self.register_parameter("weight", free if tied is None else None)

    @property
    def tied(self) -> bool:
        """True where W is the embedding's."""
        return bool(self._tied)

    @property
    def size(self) -> int:
        """Logits at a step."""
        return len(self.matrix)

    @property
    def matrix(self) -> Tensor | Quantized:
        """W, its own or the embedding's."""
        return self._tied[0].weight if self.weight is None else self.weight

    def forward(self, x: Tensor) -> Tensor:
        """Logits [..., vocabulary] from x [..., width]."""
        return capped(project(self.norm(x), self.matrix), self.cap)

    def loss(self, x: Tensor, targets: Tensor, smoothing: float = 0.0) -> Tensor:
        """Mean nats of targets [...] from x [..., width]; targets of -100 do not count.

        smoothing: as in `linear_cross_entropy`. Of targets that are real numbers, which the first logit is a
        guess of, the mean squared error; those of NaN do not count.
        """
        if targets.is_floating_point():
            if smoothing:
                raise ValueError(f"smoothing must be 0 where targets are real numbers, got {smoothing}")
            return _squared_error(self(x)[..., 0], targets)
        rows, goals = self.norm(x).flatten(0, -2), targets.flatten()
        total = linear_cross_entropy(rows, wide(self.matrix), goals, self.cap, smoothing)
        return total / (goals != IGNORED).sum().clamp(min=1)


def _squared_error(y: Tensor, targets: Tensor) -> Tensor:
    nothing = targets.isnan()
    wide = y.to(state_dtype(y.dtype))
    errors = (wide - targets.nan_to_num()).masked_fill(nothing, 0)
    return errors.square().sum() / (~nothing).sum().clamp(min=1)
