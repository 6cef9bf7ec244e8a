"""Selective copying (arXiv 2312.00752, appendix E.1): tell the data without the noise in between.

Tokens 1 to 14 are data, 15 is noise, 0 asks. `count` data tokens, each equally likely, stand at random
places among `length` positions; then they are asked for one by one, in their order: length + count steps in
all. Numbered as in the code of arXiv 2410.01201.

>>> tokens, targets = SelectiveCopying(count=3).sample(np.random.default_rng(3), rows=1, length=8)
>>> tokens
tensor([[10, 15, 15, 15, 11, 15, 15,  1,  0,  0,  0]])
>>> targets
tensor([[-100, -100, -100, -100, -100, -100, -100, -100,   10,   11,    1]])
"""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from recurra.models.cross_entropy import IGNORED
from recurra.tasks.sampled import Sampled

__all__ = ["SelectiveCopying"]

ASK, NOISE = 0, 15


@dataclass(frozen=True)
class SelectiveCopying(Sampled):
    """Raises ValueError where there is nothing to copy, or no place for it."""

    count: int = 16

    name: ClassVar[str] = "selective_copying"
    size: ClassVar[int] = NOISE + 1
    chance: ClassVar[float] = 1 / (NOISE - 1)

    def __post_init__(self) -> None:
        if self.count < 1:
            raise ValueError(f"count must be at least 1, got {self.count}")

    def sample(self, draw: np.random.Generator, rows: int, length: int) -> tuple[Tensor, Tensor]:
        """Tokens and targets, both [rows, length + count]."""
        if length < self.count:
            raise ValueError(f"context must be at least {self.count}, the tokens to copy, got {length}")
        places = np.sort(draw.random((rows, length)).argsort(axis=1)[:, : self.count], axis=1)
        data = draw.integers(ASK + 1, NOISE, (rows, self.count))
        tokens = np.full((rows, length + self.count), NOISE)
        np.put_along_axis(tokens, places, data, axis=1)
        tokens[:, length:] = ASK
        targets = np.full_like(tokens, IGNORED)
        targets[:, length:] = data
        return torch.from_numpy(tokens), torch.from_numpy(targets)
