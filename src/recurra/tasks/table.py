"""Every task that a model can be trained on: the loop, the command line and the tests read this table."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from torch import Tensor

from recurra.models.vocabulary import Vocabulary
from recurra.tasks import selective_copying, text
from recurra.tasks.sampled import Sampled

__all__ = ["TASKS", "Feed", "Row", "Task"]


class Feed(Protocol):
    """What a run reads: a pure function of seed and step, so that a resumed run reads what it would have."""

    def fresh(self, step: int) -> bool:
        """Whether the rows of a step start from no state; otherwise they go on from the step before."""

    def batch(self, step: int) -> tuple[Tensor, Tensor]:
        """Tokens and targets of a step, both [rows, T]; targets of -100 do not count."""


class Task(Protocol):
    """The data of a run and what it is judged by, `metric`; `size` tokens, those of a vocabulary or mere
    numbers; `source` says where they come from.
    """

    @property
    def name(self) -> str: ...
    @property
    def metric(self) -> str: ...
    @property
    def size(self) -> int: ...
    @property
    def vocabulary(self) -> Vocabulary | None: ...
    @property
    def source(self) -> str: ...

    def feed(self, rows: int, context: int, seed: int, carry: bool) -> Feed:
        """What to train on, `rows` sequences a step. Raises ValueError where the task has no such thing."""

    def measures(self, loss: float) -> dict[str, float]:
        """What the loss of a training step, in nats, says in the metric; empty where it says nothing."""

    def score(self, model: Any, context: int, count: int) -> float:
        """The metric over `count` held-out sequences."""

    def better(self, score: float, than: float) -> bool:
        """Whether a score is the better one of two."""

    def report(self, model: Any, context: int) -> list[str]:
        """All that a trained model is worth, in lines."""


class Row(NamedTuple):
    """How a task is set up in a run's folder, found again there, and read from another file.

    prepare(source, folder, kind, size, vocabulary) as in `tasks.text`; a task that draws its sequences
    leaves the folder alone.
    """

    prepare: Callable[[str | None, Path, str, int, Vocabulary | None], Task]
    load: Callable[[Path], Task]
    read: Callable[[str, Vocabulary | None], Task]


def _drawn(task: Sampled) -> Row:
    return Row(task.without, lambda _: task, task.without)


TASKS: dict[str, Row] = {
    "text": Row(text.prepare, text.Text.load, text.read),
    "selective_copying": _drawn(selective_copying.TASK),
}
