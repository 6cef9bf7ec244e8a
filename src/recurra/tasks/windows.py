"""Which stretches of a text a training step reads: a pure function of seed and step, never to be saved."""

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

__all__ = ["Reading", "Streams", "Windows", "gather", "order"]

Starts = NDArray[np.int64]


@lru_cache(maxsize=2)
def order(seed: int, epoch: int, windows: int) -> Starts:
    """In which order an epoch reads them."""
    return np.random.default_rng((seed, epoch)).permutation(windows)


@lru_cache(maxsize=2)
def _offset(seed: int, epoch: int, slack: int) -> int:
    return int(np.random.default_rng((seed, epoch, 1)).integers(slack + 1))


@dataclass(frozen=True)
class Windows:
    """Fresh windows: an epoch reads the text once, cut at another place and in another order each time."""

    tokens: int
    context: int
    rows: int
    seed: int

    def __post_init__(self) -> None:
        if self.tokens <= self.context:
            raise ValueError(
                f"the text has {self.tokens:,} tokens to train on, --context {self.context} needs at least "
                f"{self.context + 1:,}"
            )

    @property
    def an_epoch(self) -> int:
        """Windows an epoch; one is left out where it can be, so that the place of the cuts may vary."""
        return max((self.tokens - 1) // self.context - 1, 1)

    def starts(self, step: int) -> Starts:
        """Where the rows of a step start."""
        return np.array([self._start(item) for item in range(step * self.rows, (step + 1) * self.rows)])

    def fresh(self, step: int) -> bool:
        """Whether the rows of a step start from no state."""
        return True

    def _start(self, item: int) -> int:
        epoch, place = divmod(item, self.an_epoch)
        offset = _offset(self.seed, epoch, self.tokens - 1 - self.an_epoch * self.context)
        return offset + self.context * int(order(self.seed, epoch, self.an_epoch)[place])


@dataclass(frozen=True)
class Streams:
    """Truncated back-propagation: through an epoch each row reads on from where it was, its state carried."""

    tokens: int
    context: int
    rows: int
    seed: int

    def __post_init__(self) -> None:
        if not self.an_epoch:
            raise ValueError(
                f"the text has {self.tokens:,} tokens to train on, {self.rows} streams with --context "
                f"{self.context} need at least {self.rows * self.context + 1:,}"
            )

    @property
    def an_epoch(self) -> int:
        """Steps an epoch."""
        return (self.tokens - 1) // (self.rows * self.context)

    def starts(self, step: int) -> Starts:
        """Where the rows of a step start: each at the end of the step before, but in a new epoch."""
        epoch, chunk = divmod(step, self.an_epoch)
        length = self.an_epoch * self.context
        offset = _offset(self.seed, epoch, self.tokens - 1 - self.rows * length)
        return offset + length * np.arange(self.rows) + chunk * self.context

    def fresh(self, step: int) -> bool:
        """Whether the rows of a step start from no state."""
        return step % self.an_epoch == 0


def gather(tokens: NDArray[Any], starts: Starts, context: int) -> Tensor:
    """Rows of context + 1 tokens, [rows, context + 1] int64."""
    return torch.from_numpy(tokens[starts[:, None] + np.arange(context + 1)].astype(np.int64))


@dataclass(frozen=True)
class Reading:
    """A text in such an order, each token the target of the one before it."""

    text: NDArray[Any]
    order: Windows | Streams

    def fresh(self, step: int) -> bool:
        """Whether the rows of a step start from no state."""
        return self.order.fresh(step)

    def batch(self, step: int) -> tuple[Tensor, Tensor]:
        """Tokens and targets of a step, both [rows, context]."""
        rows = gather(self.text, self.order.starts(step), self.order.context)
        return rows[:, :-1], rows[:, 1:]
