"""Tasks whose sequences are drawn: a sampler each, and the share of right answers as their metric."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from recurra.models.cross_entropy import IGNORED
from recurra.tasks.losses import CHUNK, device_of

__all__ = ["Drawing", "Sampled", "Sampler"]

# (draw, rows, length) to tokens and targets, both [rows, T], targets of -100 where nothing is asked.
Sampler = Callable[[np.random.Generator, int, int], tuple[Tensor, Tensor]]
# What the seeds of the two kinds of sequences begin with, so that no run trains on what is held out.
TRAINING, HELD_OUT = 0, 1
# Held-out sequences of a report.
SEQUENCES = 1024


@dataclass(frozen=True)
class Drawing:
    """Sequences drawn anew at every step, by seed and step alone."""

    sample: Sampler
    rows: int
    length: int
    seed: int

    def fresh(self, step: int) -> bool:
        """True: no sequence goes on from another."""
        return True

    def batch(self, step: int) -> tuple[Tensor, Tensor]:
        """Tokens and targets of a step."""
        return self.sample(np.random.default_rng((TRAINING, self.seed, step)), self.rows, self.length)


@dataclass(frozen=True)
class Sampled:
    """A task whose sequences of `size` tokens are drawn by `sample`.

    context is the length that the task's paper counts. The held-out sequences are the same for all runs.
    """

    name: str
    sample: Sampler
    size: int

    metric: ClassVar[str] = "accuracy"
    source: ClassVar[str] = "drawn anew at every step"
    vocabulary: ClassVar[None] = None

    def without(self, source: str | None, *_: Any) -> "Sampled":
        """Itself. Raises ValueError where a source is given."""
        if source is not None:
            raise ValueError(f"{self.name} draws its own sequences, there is nothing to read in {source}")
        return self

    def feed(self, rows: int, context: int, seed: int, carry: bool) -> Drawing:
        """Raises ValueError where the state is to be carried, or the context is one that can't be drawn."""
        if carry:
            raise ValueError(f"carry: no sequence of {self.name} goes on from another")
        self._held_out(1, context)
        return Drawing(self.sample, rows, context, seed)

    def measures(self, loss: float) -> dict[str, float]:
        """Nothing: right answers are not to be told from a loss."""
        return {}

    def score(self, model: Any, context: int, count: int) -> float:
        """Share of the targets of `count` held-out sequences that are the likeliest token."""
        return self._judge(model, *self._held_out(count, context))[0]

    def better(self, score: float, than: float) -> bool:
        """Whether it is higher."""
        return score > than

    def report(self, model: Any, context: int) -> list[str]:
        """Accuracy and loss."""
        tokens, targets = self._held_out(SEQUENCES, context)
        accuracy, nats = self._judge(model, tokens, targets)
        asked = int((targets != IGNORED).sum())
        return [
            f"{self.name} of length {context}: {SEQUENCES:,} held-out sequences, {asked:,} answers",
            f"accuracy {accuracy:.4f}  {nats:.4f} nats",
        ]

    def _held_out(self, count: int, length: int) -> tuple[Tensor, Tensor]:
        return self.sample(np.random.default_rng(HELD_OUT), count, length)

    @torch.no_grad()
    def _judge(self, model: Any, tokens: Tensor, targets: Tensor) -> tuple[float, float]:
        """Share of right answers and mean nats, a few sequences at a time."""
        rows, right, nats = max(CHUNK // tokens.shape[1], 1), 0, 0.0
        for x, y in zip(tokens.split(rows), targets.split(rows), strict=True):
            logits = model(x.to(device_of(model)))[0].float().cpu()
            right += int((logits.argmax(-1) == y).sum())
            nats += torch.nn.functional.cross_entropy(
                logits.flatten(0, 1), y.flatten(), reduction="sum"
            ).item()
        asked = int((targets != IGNORED).sum())
        return right / asked, nats / asked
