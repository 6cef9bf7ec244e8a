"""Expand: each symbol and those after it, `ratio` in all; a target of `ratio` times its source.

>>> pair, targets = Expand(ratio=3).sample(np.random.default_rng(0), rows=1, length=6)
>>> pair.source, pair.target
(tensor([[ 0, 28, 21,  0]]), tensor([[ 0, 28, 29, 30, 21, 22, 23]]))
>>> targets
tensor([[28, 29, 30, 21, 22, 23,  0]])
"""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from torch import Tensor

from recurra.models.pairs import Pair
from recurra.tasks.transduction.common import Grouped, Tokens

__all__ = ["Expand"]


@dataclass(frozen=True)
class Expand(Grouped):
    """y_(rj + i) = (x_j + i) mod symbols for i < r, r the ratio; context is the longest target."""

    name: ClassVar[str] = "expand"

    def sample(self, draw: np.random.Generator, rows: int, length: int) -> tuple[Pair, Tensor]:
        """Words whose answers have that length, or of one symbol."""
        return super().sample(draw, rows, self.groups(length))

    def answer(self, words: Tokens) -> Tokens:
        """`ratio` symbols for one."""
        after: Tokens = (words[:, :, None] + np.arange(self.ratio)) % self.symbols
        return after.reshape(len(words), -1)
