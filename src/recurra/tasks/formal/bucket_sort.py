"""Bucket sort (arXiv 2207.02098, appendix A): a word of ten symbols again, in order.

>>> tokens, targets = BucketSort().sample(np.random.default_rng(0), rows=1, length=4)
>>> tokens
tensor([[ 8,  6,  5,  2, 10, 10, 10, 10]])
>>> targets
tensor([[-100, -100, -100, -100,    2,    5,    6,    8]])
"""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from recurra.tasks.formal.common import Formal, Tokens

__all__ = ["BucketSort"]


@dataclass(frozen=True)
class BucketSort(Formal):
    """y = x, sorted."""

    name: ClassVar[str] = "bucket_sort"
    symbols: ClassVar[int] = 10
    classes: ClassVar[int] = 10

    def question(self, draw: np.random.Generator, rows: int, length: int) -> tuple[Tokens, Tokens]:
        """Words and sorted words, both [rows, length]."""
        words = draw.integers(0, self.symbols, (rows, length))
        return words, np.sort(words, axis=1)
