"""Sort: the symbols of the word in their order.

>>> pair, targets = Sort().sample(np.random.default_rng(0), rows=1, length=4)
>>> pair.source, pair.target
(tensor([[ 0, 28, 21, 17,  9,  0]]), tensor([[ 0,  9, 17, 21, 28]]))
>>> targets
tensor([[ 9, 17, 21, 28,  0]])
"""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from recurra.tasks.transduction.common import Tokens, Transduction

__all__ = ["Sort"]


@dataclass(frozen=True)
class Sort(Transduction):
    """y = x, sorted."""

    name: ClassVar[str] = "sort"

    def answer(self, words: Tokens) -> Tokens:
        """The least symbol first."""
        return np.sort(words, axis=1)
