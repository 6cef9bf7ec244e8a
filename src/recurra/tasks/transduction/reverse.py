"""Reverse (arXiv 1410.5401, section 4.1, read from its end): the word from its end.

>>> pair, targets = Reverse().sample(np.random.default_rng(0), rows=1, length=4)
>>> pair.source, pair.target
(tensor([[ 0, 28, 21, 17,  9,  0]]), tensor([[ 0,  9, 17, 21, 28]]))
>>> targets
tensor([[ 9, 17, 21, 28,  0]])
"""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from recurra.tasks.transduction.common import Tokens, Transduction

__all__ = ["Reverse"]


@dataclass(frozen=True)
class Reverse(Transduction):
    """y_t = x_(T + 1 - t)."""

    name: ClassVar[str] = "reverse"

    def answer(self, words: Tokens) -> Tokens:
        """The last symbol first."""
        return np.flip(words, axis=1)
