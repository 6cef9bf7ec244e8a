"""Even pairs (arXiv 2207.02098, appendix A): whether the neighbours that differ are odd in number.

Which is whether the first bit differs from the last: a model has to keep one bit.

>>> tokens, targets = EvenPairs().sample(np.random.default_rng(0), rows=1, length=6)
>>> tokens
tensor([[1, 1, 1, 0, 0, 0, 2]])
>>> targets
tensor([[-100, -100, -100, -100, -100, -100,    1]])
"""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from recurra.tasks.formal.common import Formal, Tokens

__all__ = ["EvenPairs"]


@dataclass(frozen=True)
class EvenPairs(Formal):
    """y = number of t with x_t != x_(t + 1), mod 2."""

    name: ClassVar[str] = "even_pairs"
    symbols: ClassVar[int] = 2
    classes: ClassVar[int] = 2

    def question(self, draw: np.random.Generator, rows: int, length: int) -> tuple[Tokens, Tokens]:
        """Bits [rows, length], and 0 or 1."""
        bits = draw.integers(0, 2, (rows, length))
        return bits, bits[:, :1] ^ bits[:, -1:]
