"""The adding problem (Hochreiter and Schmidhuber, 1997, section 5.4): the sum of two numbers among many.

Each step brings a number, uniform in [0, 1], and a mark. One number in each half of the sequence is marked;
their sum is asked for at the last step. Who always answers 1 has a mean squared error of 1/6. In the paper
numbers lie in [-1, 1] and the sum is scaled; these are the ranges of arXiv 1504.00941, section 4.1.

>>> inputs, targets = Adding().sample(np.random.default_rng(0), rows=1, length=4)
>>> inputs
tensor([[[0.8506, 1.0000],
         [0.6370, 0.0000],
         [0.5111, 1.0000],
         [0.2698, 0.0000]]])
>>> targets
tensor([[   nan,    nan,    nan, 1.3618]])
"""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from recurra.tasks.answers import CLOSE
from recurra.tasks.sampled import Sampled

__all__ = ["Adding"]


@dataclass(frozen=True)
class Adding(Sampled):
    """y_T = sum of the marked numbers; accuracy is the share of answers within 0.04."""

    name: ClassVar[str] = "adding"
    size: ClassVar[int] = 1
    channels: ClassVar[int] = 2
    # Of answering 1: the sum of two uniform numbers is as close with this probability.
    chance: ClassVar[float] = 1 - (1 - CLOSE) ** 2

    def sample(self, draw: np.random.Generator, rows: int, length: int) -> tuple[Tensor, Tensor]:
        """Numbers and marks [rows, length, 2], and sums. Raises ValueError for less than two steps."""
        if length < 2:
            raise ValueError(f"context must be at least 2, got {length}")
        inputs = np.zeros((rows, length, 2), np.float32)
        inputs[..., 0] = draw.random((rows, length), np.float32)
        half, row = length // 2, np.arange(rows)
        inputs[row, draw.integers(0, half, rows), 1] = 1
        inputs[row, draw.integers(half, length, rows), 1] = 1
        targets = np.full((rows, length), np.nan, np.float32)
        targets[:, -1] = inputs.prod(-1).sum(1)
        return torch.from_numpy(inputs), torch.from_numpy(targets)
