"""Majority (arXiv 2405.04517, section 4.1): which of 63 symbols is the most frequent in a word.

Of those that are as frequent the largest is, as in the code of arXiv 2410.01201.

>>> tokens, targets = Majority().sample(np.random.default_rng(3), rows=1, length=8)
>>> tokens
tensor([[51,  5, 11, 14, 11, 50, 54, 36, 63]])
>>> targets
tensor([[-100, -100, -100, -100, -100, -100, -100, -100,   11]])
"""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from recurra.tasks.formal.common import Formal, Tokens

__all__ = ["Majority", "counts"]


@dataclass(frozen=True)
class Majority(Formal):
    """y = the largest of the most frequent symbols."""

    name: ClassVar[str] = "majority"
    symbols: ClassVar[int] = 63
    classes: ClassVar[int] = 63

    def question(self, draw: np.random.Generator, rows: int, length: int) -> tuple[Tokens, Tokens]:
        """Words [rows, length], and a symbol."""
        words = draw.integers(0, self.symbols, (rows, length))
        reverse = counts(words, self.symbols)[:, ::-1]
        return words, self.symbols - 1 - reverse.argmax(1, keepdims=True)


def counts(words: Tokens, symbols: int) -> Tokens:
    """How often each symbol occurs in each word, [rows, symbols]."""
    own = words + symbols * np.arange(len(words))[:, None]
    return np.bincount(own.ravel(), minlength=symbols * len(words)).reshape(-1, symbols)
