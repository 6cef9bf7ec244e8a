"""How many answers of a model are right."""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from statistics import fmean
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from recurra import state as states
from recurra.models.cross_entropy import IGNORED
from recurra.models.pairs import Pair
from recurra.models.vocabulary import Vocabulary
from recurra.tasks.losses import CHUNK, device_of

__all__ = ["CLOSE", "Answered", "Answers", "Inputs", "asked", "judge", "mean"]

# What a model reads, batch first.
Inputs = Tensor | Pair

# A number is right where it is off by no more, as in Hochreiter and Schmidhuber, 1997, section 5.4.
CLOSE = 0.04


class Answers(NamedTuple):
    """Share of right ones and of sequences without a wrong one, the mean loss, how many there were.

    What is written token by token from the likeliest ones is right where all of its answers are.
    """

    accuracy: float
    whole: float
    loss: float
    asked: int


def asked(targets: Tensor) -> Tensor:
    """Where there is something to answer."""
    return ~targets.isnan() if targets.is_floating_point() else targets != IGNORED


@torch.no_grad()
def judge(model: Any, batches: Iterable[tuple[Inputs, Tensor]]) -> Answers:
    """Of all targets, a few sequences at a time.

    The likeliest token is the answer, its loss in nats; or the number itself, its loss the squared error.
    """
    right, whole, loss, count, sequences = 0, 0, 0.0, 0, 0
    for inputs, targets in batches:
        rows = max(CHUNK * len(targets) // _steps(inputs), 1)
        for begin in range(0, len(targets), rows):
            part = slice(begin, begin + rows)
            x, y = states.apply(lambda x, part=part: x[part].to(device_of(model)), inputs), targets[part]
            logits = model(x)[0].float().cpu()
            hits, losses = _numbers(logits, y) if y.is_floating_point() else _tokens(logits, y)
            right, loss = right + int((hits & asked(y)).sum()), loss + losses.sum().item()
            whole += int((hits | ~asked(y)).all(1).sum())
        count, sequences = count + int(asked(targets).sum()), sequences + len(targets)
    return Answers(right / count, whole / sequences, loss / count, count)


def _steps(inputs: Inputs) -> int:
    """Of all rows together."""
    if isinstance(inputs, Pair):
        return inputs.source.numel() + inputs.target.numel()
    return inputs.shape[0] * inputs.shape[1]


def mean(parts: Sequence[Answers]) -> Answers:
    """Of lengths that count alike, however many answers each asks for."""
    accuracies, wholes, losses, counts = zip(*parts, strict=True)
    return Answers(fmean(accuracies), fmean(wholes), fmean(losses), sum(counts))


class Answered(ABC):
    """A task that is judged by its share of right answers."""

    metric: ClassVar[str] = "accuracy"
    vocabulary: ClassVar[Vocabulary | None] = None

    @property
    @abstractmethod
    def chance(self) -> float:
        """Share of right answers of a guess."""

    @abstractmethod
    def judged(self, model: Any, context: int, lengths: Sequence[int] = ()) -> Mapping[str, Answers]:
        """Answers to what is held out to test on, by the name of their length."""

    def measures(self, loss: float) -> dict[str, float]:
        """Nothing: right answers are not to be told from a loss."""
        return {}

    def better(self, score: float, than: float) -> bool:
        """Whether it is higher."""
        return score > than

    def scores(self, model: Any, context: int, lengths: Sequence[int] = ()) -> dict[str, float]:
        """Accuracy, scaled accuracy (0: chance, 1: solved), the share of sequences that are right as a whole,
        and loss; `accuracy@40` is that of length 40."""
        judged = self.judged(model, context, lengths)
        return {f"{k}@{n}": v for n, found in judged.items() for k, v in _values(found, self.chance).items()}

    def report(self, model: Any, context: int, lengths: Sequence[int] = ()) -> list[str]:
        """The same for people, a line a length."""
        return [_line(n, found, self.chance) for n, found in self.judged(model, context, lengths).items()]


def _line(length: str, found: Answers, chance: float) -> str:
    values = "  ".join(f"{k} {v:.4f}" for k, v in _values(found, chance).items())
    return f"length {length:>7}  {values}  ({found.asked:,} answers)"


def _values(found: Answers, chance: float) -> dict[str, float]:
    """Scaled accuracy: 0 for chance, 1 for solved."""
    scaled = (found.accuracy - chance) / (1 - chance)
    shares = {"accuracy": found.accuracy, "scaled_accuracy": scaled, "whole": found.whole}
    return {**shares, "loss": found.loss}


def _tokens(logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    hits = logits.argmax(-1) == targets
    return hits, cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="none")


def _numbers(logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    errors = logits[..., 0] - targets
    return errors.abs() <= CLOSE, errors[asked(targets)].square()
