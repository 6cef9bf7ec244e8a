"""Induction heads (arXiv 2312.00752, appendix E.1): what followed the special token when it came before.

Token 0 is special: it stands at a random place and again at the end, where the token that followed it is
asked for. All others are drawn alike. Trained at 256 steps, the paper's models are judged at 64 and beyond.

>>> tokens, targets = Induction().sample(np.random.default_rng(0), rows=1, length=8)
>>> tokens
tensor([[13,  0,  8,  5,  5,  1,  2,  0]])
>>> targets
tensor([[-100, -100, -100, -100, -100, -100, -100,    8]])
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from recurra.models.cross_entropy import IGNORED
from recurra.tasks.sampled import Sampled

__all__ = ["Induction"]

SPECIAL = 0


@dataclass(frozen=True)
class Induction(Sampled):
    """size: tokens, the special one included. Raises ValueError for less than two, or than three steps."""

    size: int = 16

    name: ClassVar[str] = "induction"

    def __post_init__(self) -> None:
        if self.size < 2:
            raise ValueError(f"size must be at least 2, got {self.size}")

    @property
    def chance(self) -> float:
        """Share of right answers of a guess."""
        return 1 / (self.size - 1)

    def sample(self, draw: np.random.Generator, rows: int, length: int) -> tuple[Tensor, Tensor]:
        """Tokens and targets, both [rows, length]."""
        if length < 3:
            raise ValueError(f"context must be at least 3, got {length}")
        tokens = draw.integers(SPECIAL + 1, self.size, (rows, length))
        row, place = np.arange(rows), draw.integers(0, length - 2, rows)
        tokens[row, place] = tokens[:, -1] = SPECIAL
        targets = np.full_like(tokens, IGNORED)
        targets[:, -1] = tokens[row, place + 1]
        return torch.from_numpy(tokens), torch.from_numpy(targets)

    def lengths(self, context: int) -> Sequence[int]:
        """A quarter of the context to eight times as long."""
        return [max(int(context * factor), 3) for factor in (0.25, 0.5, 1, 2, 4, 8)]
