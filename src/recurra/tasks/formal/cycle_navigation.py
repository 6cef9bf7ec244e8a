"""Cycle navigation (arXiv 2207.02098, appendix A): where steps on a cycle of five places lead.

0 is a step back, 1 none, 2 a step forward, from place 0.

>>> tokens, targets = CycleNavigation().sample(np.random.default_rng(0), rows=1, length=6)
>>> tokens
tensor([[2, 1, 1, 0, 0, 0, 3]])
>>> targets
tensor([[-100, -100, -100, -100, -100, -100,    3]])
"""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from recurra.tasks.formal.common import Formal, Tokens

__all__ = ["CycleNavigation"]


@dataclass(frozen=True)
class CycleNavigation(Formal):
    """y = sum of (x_t - 1), mod 5."""

    name: ClassVar[str] = "cycle_navigation"
    symbols: ClassVar[int] = 3
    classes: ClassVar[int] = 5

    def question(self, draw: np.random.Generator, rows: int, length: int) -> tuple[Tokens, Tokens]:
        """Steps [rows, length], and the place."""
        steps = draw.integers(0, 3, (rows, length))
        return steps, (steps - 1).sum(1, keepdims=True) % 5
