"""Tasks whose sequences are drawn: what a step reads, what is held out, and what answers are worth."""

import math
from abc import abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from torch import Tensor

from recurra.tasks.answers import Answered, Answers, Inputs, judge, mean

__all__ = ["Drawing", "Sampled"]

# What the seeds of the kinds of sequences begin with, so that no run trains on what is held out, and that
# no checkpoint is chosen by what it is judged by.
TRAINING, VALIDATION, TEST = 0, 1, 2
# Held-out sequences of each length.
SEQUENCES = 1024


@dataclass(frozen=True)
class Drawing:
    """Sequences drawn anew at every step, by seed and step alone."""

    task: "Sampled"
    rows: int
    context: int
    seed: int

    def fresh(self, step: int) -> bool:
        """True: no sequence goes on from another."""
        return True

    def batch(self, step: int) -> tuple[Inputs, Tensor]:
        """Inputs and targets of a step."""
        draw = np.random.default_rng((TRAINING, self.seed, step))
        return self.task.sample(draw, self.rows, self.task.length(draw, self.context))


class Sampled(Answered):
    """A task whose sequences are drawn by `sample`: a frozen dataclass, whose fields are its options.

    context is the length that the task's paper counts, `context` of the class the one a run takes unless
    told. What is held out is the same for all runs.
    """

    name: ClassVar[str]
    context: ClassVar[int] = 256
    channels: ClassVar[int] = 0
    paired: ClassVar[bool] = False
    kind: ClassVar[str] = "byte"
    source: ClassVar[str] = "drawn anew at every step"

    @property
    @abstractmethod
    def size(self) -> int:
        """Tokens, of what is read and of what is answered; 1 where answers are real numbers."""

    @abstractmethod
    def sample(self, draw: np.random.Generator, rows: int, length: int) -> tuple[Inputs, Tensor]:
        """Inputs [rows, T] or [rows, T, channels], or pairs; targets [rows, T], -100 or NaN where nothing is
        asked."""

    def length(self, draw: np.random.Generator, context: int) -> int:
        """Of the sequences of a step."""
        return context

    def spread(self, context: int, count: int) -> Sequence[int]:
        """The lengths that a score is the mean over, `count` at most."""
        return [context]

    def lengths(self, context: int) -> Sequence[int]:
        """Where a trained model is judged unless told."""
        return [context]

    def prepare(self, source: str | None, *_: Any) -> "Sampled":
        """Itself. Raises ValueError where a source is given."""
        if source is not None:
            raise ValueError(f"{self.name} draws its own sequences, there is nothing to read in {source}")
        return self

    def load(self, folder: Any) -> "Sampled":
        """Itself: it leaves nothing in a folder."""
        return self

    def read(self, source: str, *_: Any) -> "Sampled":
        """Raises ValueError."""
        return self.prepare(source)

    def feed(self, rows: int, context: int, seed: int, carry: bool) -> Drawing:
        """Raises ValueError where the state is to be carried, or the context is one that can't be drawn."""
        if carry:
            raise ValueError(f"carry: no sequence of {self.name} goes on from another")
        self.sample(np.random.default_rng(0), 1, context)
        return Drawing(self, rows, context, seed)

    def score(self, model: Any, context: int, count: int) -> float:
        """Share of right answers in about `count` sequences; none of them is in `scores`."""
        return self._judge(model, VALIDATION, self.spread(context, count), count).accuracy

    def held_out(self, kind: int, lengths: Sequence[int], count: int) -> Iterator[tuple[Inputs, Tensor]]:
        """Inputs and targets, as many of each length, at least `count` in all."""
        for length in lengths:
            yield self.sample(np.random.default_rng((kind, length)), math.ceil(count / len(lengths)), length)

    def judged(self, model: Any, context: int, lengths: Sequence[int] = ()) -> dict[str, Answers]:
        """Those of each length by its name; unless told where, also those of all lengths of a score."""
        parts = {str(n): [n] for n in lengths or self.lengths(context)}
        spread = self.spread(context, SEQUENCES)
        if not lengths and len(spread) > 1:
            parts[f"{spread[0]}-{spread[-1]}"] = list(spread)
        return {name: self._judge(model, TEST, part, SEQUENCES) for name, part in parts.items()}

    def _judge(self, model: Any, kind: int, lengths: Sequence[int], count: int) -> Answers:
        return mean([judge(model, [batch]) for batch in self.held_out(kind, lengths, count)])
