"""Majority count (arXiv 2405.04517, section 4.1): how often the most frequent of 63 symbols occurs.

Counts from 62 on are one answer: none such is ever seen in words that are drawn. The chance of a guess is
not stated in the papers, and taken to be one of 63 here; who always says 7 is right more often.

>>> tokens, targets = MajorityCount().sample(np.random.default_rng(3), rows=1, length=8)
>>> tokens
tensor([[51,  5, 11, 14, 11, 50, 54, 36, 63]])
>>> targets
tensor([[-100, -100, -100, -100, -100, -100, -100, -100,    2]])
"""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from recurra.tasks.formal.common import Formal, Tokens
from recurra.tasks.formal.majority import counts

__all__ = ["MajorityCount"]


@dataclass(frozen=True)
class MajorityCount(Formal):
    """y = the largest count of a symbol."""

    name: ClassVar[str] = "majority_count"
    symbols: ClassVar[int] = 63
    classes: ClassVar[int] = 63

    def question(self, draw: np.random.Generator, rows: int, length: int) -> tuple[Tokens, Tokens]:
        """Words [rows, length], and a count."""
        words = draw.integers(0, self.symbols, (rows, length))
        most = counts(words, self.symbols).max(1, keepdims=True)
        return words, most.clip(max=self.classes - 1)
