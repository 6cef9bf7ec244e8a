"""What a model reads, as vectors of its width: tokens by a table, real numbers by a matrix."""

import torch
from torch import Tensor, nn

from recurra.parts.linear import Linear

__all__ = ["Embedding", "LinearEmbedding"]


class Embedding(nn.Module):
    """Row `token` of weight [V, D], times scale; drawn from N(0, std^2); tokens are integers of any shape.

    Raises IndexError for a token that is not in 0..V-1 (on a CPU; a GPU's queue is not stopped).
    """

    def __init__(self, vocabulary: int, width: int, std: float = 1.0, scale: float = 1.0) -> None:
        super().__init__()
        self.scale = scale
        self.weight = nn.Parameter(torch.empty(vocabulary, width).normal_(0, std))

    def forward(self, tokens: Tensor) -> Tensor:
        rows = torch.embedding(self.weight, tokens)
        return rows if self.scale == 1 else rows * self.scale

    def extra_repr(self) -> str:
        shape = "{}, {}".format(*self.weight.shape)
        return shape if self.scale == 1 else f"{shape}, scale={self.scale:g}"


class LinearEmbedding(Linear):
    """W x + b of x [..., channels], real numbers, which are taken in the dtype of W [width, channels]."""

    def forward(self, input: Tensor, added: Tensor | None = None) -> Tensor:  # noqa: A002 - nn.Linear's name
        return super().forward(input.to(self.weight.dtype), added)
