"""Modular arithmetic without brackets (arXiv 2207.02098, appendix A): a sum of products, modulo 5.

Tokens 0 to 4 are digits, 5 is plus, 6 minus, 7 times, which binds closer. Numbers and operators take turns,
so that words are odd in length: those of an even length are one shorter.

>>> tokens, targets = ModularArithmetic().sample(np.random.default_rng(6), rows=1, length=7)
>>> tokens
tensor([[2, 6, 2, 6, 4, 7, 3, 8]])
>>> targets
tensor([[-100, -100, -100, -100, -100, -100, -100,    3]])
"""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from recurra.tasks.formal.common import Formal, Tokens

__all__ = ["ModularArithmetic"]

PLUS, MINUS, TIMES = 5, 6, 7


@dataclass(frozen=True)
class ModularArithmetic(Formal):
    """y = the value of the word, mod 5."""

    name: ClassVar[str] = "modular_arithmetic"
    symbols: ClassVar[int] = 8
    classes: ClassVar[int] = 5

    def question(self, draw: np.random.Generator, rows: int, length: int) -> tuple[Tokens, Tokens]:
        """Expressions [rows, length or length - 1], and their values."""
        words = draw.integers(0, 5, (rows, length - 1 + length % 2))
        words[:, 1::2] = draw.integers(PLUS, TIMES + 1, (rows, words.shape[1] // 2))
        return words, _value(words)


def _value(words: Tokens) -> Tokens:
    """Of all rows at once: the sum so far, and the product, with its sign, that is still to be added."""
    total, product = np.zeros_like(words[:, 0]), words[:, 0]
    for operator, digit in zip(words[:, 1::2].T, words[:, 2::2].T, strict=True):
        total = (total + np.where(operator == TIMES, 0, product)) % 5
        product = np.choose(operator - PLUS, [digit, -digit, product * digit]) % 5
    return ((total + product) % 5)[:, None]
