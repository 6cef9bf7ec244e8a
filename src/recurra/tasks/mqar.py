"""Multi-query associative recall (arXiv 2312.04927, section 3 and appendix E): the value of each key.

Keys, which are all different, and their values take turns; then each key comes once more and its value is
asked for. Queries stand at even places, sooner more likely than later, by a power law; what is left between
them is filled with tokens of all kinds. 0 is none of the keys, those are the tokens below size / 2.

>>> tokens, targets = MQAR(pairs=2, size=20).sample(np.random.default_rng(0), rows=1, length=10)
>>> tokens
tensor([[ 8, 13,  6, 18,  6, 16,  8,  1, 17,  0]])
>>> targets
tensor([[-100, -100, -100, -100,   18, -100,   13, -100, -100, -100]])
"""

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from recurra.models.cross_entropy import IGNORED
from recurra.tasks.sampled import Sampled

__all__ = ["MQAR"]

# Of the gap before a query: density in proportion to gap^(POWER - 1).
POWER = 0.01


@dataclass(frozen=True)
class MQAR(Sampled):
    """pairs: of a key and a value; size: tokens. The easy settings are context 64, 128, 256 with 4, 8, 16.

    Raises ValueError for pairs that do not fit into the tokens or, four steps each, into the context.
    """

    pairs: int = 4
    size: int = 8192

    name: ClassVar[str] = "mqar"
    context: ClassVar[int] = 64

    def __post_init__(self) -> None:
        if not 1 <= self.pairs < self.size // 2:
            raise ValueError(f"pairs must be 1 to size / 2 - 1, got {self.pairs}, size {self.size}")

    @property
    def chance(self) -> float:
        """Share of right answers of a guess among all values, not among those of the sequence."""
        return 1 / (self.size - self.size // 2)

    def sample(self, draw: np.random.Generator, rows: int, length: int) -> tuple[Tensor, Tensor]:
        """Tokens and targets, both [rows, length]."""
        half, start, space = self.size // 2, 2 * self.pairs, length // 2 - self.pairs
        if space < self.pairs:
            raise ValueError(f"context must be at least {4 * self.pairs}, 4 x pairs, got {length}")
        keys = 1 + _first(draw.random((rows, half - 1), np.float32), self.pairs)
        values = half + _first(draw.random((rows, self.size - half), np.float32), self.pairs)
        # The first of events at such rates are a weighted draw without replacement.
        rates = np.arange(1, space + 1) ** (POWER - 1)
        gaps = _first(draw.standard_exponential((rows, space)) / rates, self.pairs)
        tokens = draw.integers(0, self.size, (rows, length))
        tokens[:, 0:start:2], tokens[:, 1:start:2] = keys, values
        np.put_along_axis(tokens, start + 2 * gaps, keys, axis=1)
        targets = np.full_like(tokens, IGNORED)
        np.put_along_axis(targets, start + 2 * gaps, values, axis=1)
        return torch.from_numpy(tokens), torch.from_numpy(targets)


def _first(times: NDArray[Any], count: int) -> NDArray[np.int64]:
    """The columns of the `count` smallest numbers of each row, in their order."""
    first = np.argpartition(times, count - 1, axis=1)[:, :count]
    order = np.take_along_axis(times, first, axis=1).argsort(axis=1)
    return np.take_along_axis(first, order, axis=1)
