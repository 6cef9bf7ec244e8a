"""Missing duplicate as in the code of arXiv 2410.01201: a word of nine symbols, told again up to some place.

The next symbol is asked for. The place is one for all rows; a word of `length` symbols takes up to twice as
many steps. In arXiv 2207.02098, appendix A, one symbol of a doubled word is hidden instead.

>>> tokens, targets = MissingDuplicate().sample(np.random.default_rng(1), rows=1, length=5)
>>> tokens
tensor([[4, 4, 6, 8, 0, 9]])
>>> targets
tensor([[-100, -100, -100, -100, -100,    4]])
"""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from recurra.tasks.formal.common import Formal, Tokens

__all__ = ["MissingDuplicate"]


@dataclass(frozen=True)
class MissingDuplicate(Formal):
    """y = x_j, after x_0, ..., x_(length - 1), x_0, ..., x_(j - 1)."""

    name: ClassVar[str] = "missing_duplicate"
    symbols: ClassVar[int] = 9
    classes: ClassVar[int] = 9

    def question(self, draw: np.random.Generator, rows: int, length: int) -> tuple[Tokens, Tokens]:
        """Words and their beginnings, [rows, length + j], and a symbol."""
        words, place = draw.integers(0, self.symbols, (rows, length)), draw.integers(length)
        return np.concatenate([words, words[:, :place]], axis=1), words[:, place : place + 1]
