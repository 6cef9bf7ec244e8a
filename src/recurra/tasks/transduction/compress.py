"""Compress: of every `ratio` symbols the largest; a target a `ratio`-th of its source.

>>> pair, targets = Compress(ratio=3).sample(np.random.default_rng(0), rows=1, length=6)
>>> pair.source, pair.target
(tensor([[ 0, 28, 21, 17,  9, 10,  2,  0]]), tensor([[ 0, 28, 10]]))
>>> targets
tensor([[28, 10,  0]])
"""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from torch import Tensor

from recurra.models.pairs import Pair
from recurra.tasks.transduction.common import Grouped, Tokens

__all__ = ["Compress"]


@dataclass(frozen=True)
class Compress(Grouped):
    """y_j = the largest of x_(rj) ... x_(rj + r - 1), r the ratio; words are of whole groups."""

    name: ClassVar[str] = "compress"

    def sample(self, draw: np.random.Generator, rows: int, length: int) -> tuple[Pair, Tensor]:
        """Words of whole groups, one at the least."""
        return super().sample(draw, rows, self.groups(length) * self.ratio)

    def answer(self, words: Tokens) -> Tokens:
        """One symbol a group."""
        groups = words.reshape(len(words), -1, self.ratio)
        largest: Tokens = groups.max(axis=2)
        return largest
