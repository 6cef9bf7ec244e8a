"""Copy: the word itself.

>>> pair, targets = Copy().sample(np.random.default_rng(0), rows=1, length=4)
>>> pair.source, pair.target
(tensor([[ 0, 28, 21, 17,  9,  0]]), tensor([[ 0, 28, 21, 17,  9]]))
>>> targets
tensor([[28, 21, 17,  9,  0]])
"""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from recurra.tasks.transduction.common import Tokens, Transduction

__all__ = ["Copy"]


@dataclass(frozen=True)
class Copy(Transduction):
    """y = x."""

    name: ClassVar[str] = "copy"

    def answer(self, words: Tokens) -> Tokens:
        """The same."""
        return np.copy(words)
