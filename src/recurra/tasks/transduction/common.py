"""What the tasks from sequence to sequence share: words, of one length a step, and their answers."""

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray

from recurra.models.pairs import Pair
from recurra.tasks.sampled import Sampled

__all__ = ["EDGE", "Grouped", "Tokens", "Transduction"]

Tokens = NDArray[np.int64]

# On both sides of a word, so that relative positions have something to count from; in front of an answer as
# the decoder reads it, and behind it as it has to write it.
EDGE = 0


@dataclass(frozen=True)
class Transduction(Sampled):
    """`answer` to words of tokens 1 to `symbols`; context is the longest word.

    shortest: of the words to train on. An answer is followed by EDGE, which has to be written too.
    """

    symbols: int = 32
    shortest: int = 1

    context: ClassVar[int] = 64
    paired: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if self.symbols < 2 or self.shortest < 1:
            raise ValueError(
                f"symbols must be at least 2, shortest 1, got {self.symbols} and {self.shortest}"
            )

    @abstractmethod
    def answer(self, words: Tokens) -> Tokens:
        """[rows, K] of words [rows, T], 0 to symbols - 1 both."""

    @property
    def size(self) -> int:
        """Tokens, on either side."""
        return self.symbols + 1

    @property
    def chance(self) -> float:
        """Share of right answers of a guess among all tokens."""
        return 1 / self.size

    def length(self, draw: np.random.Generator, context: int) -> int:
        """Each from the shortest to the context equally likely."""
        return int(draw.integers(min(self.shortest, context), context + 1))

    def lengths(self, context: int) -> Sequence[int]:
        """The context, and shorter words down to an eighth of it."""
        return sorted({max(context // part, 1) for part in (1, 2, 4, 8)})

    def sample(self, draw: np.random.Generator, rows: int, length: int) -> tuple[Pair, torch.Tensor]:
        """The words and what is to be written, [rows, T + 2] and [rows, K + 1]."""
        words = draw.integers(0, self.symbols, (rows, length))
        answers = self.answer(words) + 1
        edge = np.full((rows, 1), EDGE)
        parts = (edge, words + 1, edge), (edge, answers), (answers, edge)
        source, read, written = (torch.from_numpy(np.concatenate(part, 1)) for part in parts)
        return Pair(source, torch.full((rows,), length + 2), read), written


@dataclass(frozen=True)
class Grouped(Transduction):
    """Where `ratio` symbols of the longer side belong to one of the shorter; context is the longer side."""

    ratio: int = 10

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.ratio < 1:
            raise ValueError(f"ratio must be at least 1, got {self.ratio}")

    def groups(self, length: int) -> int:
        """Whole ones in that length, one at the least."""
        return max(length // self.ratio, 1)

    def lengths(self, context: int) -> Sequence[int]:
        """Of whole groups, so that each is what its name says."""
        return sorted({self.groups(length) * self.ratio for length in super().lengths(context)})
