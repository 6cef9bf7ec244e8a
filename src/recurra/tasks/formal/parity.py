"""Parity (arXiv 2405.04517, section 4.1): whether the ones of a word of bits are odd in number.

>>> tokens, targets = Parity().sample(np.random.default_rng(0), rows=1, length=6)
>>> tokens
tensor([[1, 1, 1, 0, 0, 0, 2]])
>>> targets
tensor([[-100, -100, -100, -100, -100, -100,    1]])
"""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from recurra.tasks.formal.common import Formal, Tokens

__all__ = ["Parity"]


@dataclass(frozen=True)
class Parity(Formal):
    """y = sum of the bits mod 2."""

    name: ClassVar[str] = "parity"
    symbols: ClassVar[int] = 2
    classes: ClassVar[int] = 2

    def question(self, draw: np.random.Generator, rows: int, length: int) -> tuple[Tokens, Tokens]:
        """Bits [rows, length], and 0 or 1."""
        bits = draw.integers(0, 2, (rows, length))
        return bits, bits.sum(1, keepdims=True) % 2
