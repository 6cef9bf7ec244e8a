"""What the formal languages share: words of any length, asked about where the word is over.

As in arXiv 2405.04517, section 4.1, and 2410.01201: words of 1 to 40 symbols to train on, one length a step;
judged on those of 40 to 256. Numbered as in the code of 2410.01201.
"""

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from recurra.models.cross_entropy import IGNORED
from recurra.tasks.sampled import Sampled

__all__ = ["Formal", "Tokens"]

Tokens = NDArray[np.int64]

# Lengths of the words of a score, and those of the curve of accuracy against length.
LOW, HIGH, CURVE = 40, 256, (20, 40, 64, 96, 128, 192, 256, 512)
# Words of a length in a score: many lengths tell more than many words of a few.
WORDS = 8


@dataclass(frozen=True)
class Formal(Sampled):
    """`question` gives words of `symbols` tokens, and answers of `classes`; the token after the symbols is
    EMPTY, of which there is one for each answer behind the word. shortest: of the words to train on.
    """

    shortest: int = 1

    context: ClassVar[int] = 40
    symbols: ClassVar[int]
    classes: ClassVar[int]

    def __post_init__(self) -> None:
        if self.shortest < 1:
            raise ValueError(f"shortest must be at least 1, got {self.shortest}")

    @abstractmethod
    def question(self, draw: np.random.Generator, rows: int, length: int) -> tuple[Tokens, Tokens]:
        """Words [rows, T] and what is to be answered, [rows, K]."""

    @property
    def size(self) -> int:
        """Tokens, of what is read and of what is answered."""
        return max(self.symbols + 1, self.classes)

    @property
    def chance(self) -> float:
        """Share of right answers of a guess."""
        return 1 / self.classes

    def sample(self, draw: np.random.Generator, rows: int, length: int) -> tuple[Tensor, Tensor]:
        """Tokens and targets, both [rows, T + K]."""
        words, answers = self.question(draw, rows, length)
        tokens = np.concatenate([words, np.full_like(answers, self.symbols)], axis=1)
        targets = np.concatenate([np.full_like(words, IGNORED), answers], axis=1)
        return torch.from_numpy(tokens), torch.from_numpy(targets)

    def feed(self, rows: int, context: int, seed: int, carry: bool) -> Any:
        """Raises ValueError where the longest words are shorter than the shortest."""
        if context < self.shortest:
            raise ValueError(f"context must be at least {self.shortest}, the shortest, got {context}")
        return super().feed(rows, context, seed, carry)

    def length(self, draw: np.random.Generator, context: int) -> int:
        """Each from the shortest to the context equally likely."""
        return int(draw.integers(self.shortest, context + 1))

    def spread(self, context: int, count: int) -> Sequence[int]:
        """From 40 to 256, with at least eight words each where there are more than two lengths."""
        parts = min(max(count // WORDS, 2), HIGH - LOW + 1)
        return [int(n) for n in np.linspace(LOW, HIGH, parts).round()]

    def lengths(self, context: int) -> Sequence[int]:
        """Those of the curve."""
        return CURVE
