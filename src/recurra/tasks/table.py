"""Every task that a model can be trained on: the loop, the command line and the tests read this table."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol, get_type_hints

from torch import Tensor

from recurra.models.vocabulary import Vocabulary
from recurra.tasks.adding import Adding
from recurra.tasks.answers import Inputs
from recurra.tasks.formal.bucket_sort import BucketSort
from recurra.tasks.formal.cycle_navigation import CycleNavigation
from recurra.tasks.formal.even_pairs import EvenPairs
from recurra.tasks.formal.majority import Majority
from recurra.tasks.formal.majority_count import MajorityCount
from recurra.tasks.formal.missing_duplicate import MissingDuplicate
from recurra.tasks.formal.modular_arithmetic import ModularArithmetic
from recurra.tasks.formal.parity import Parity
from recurra.tasks.images import ImageFiles
from recurra.tasks.induction import Induction
from recurra.tasks.listops import ListOps
from recurra.tasks.mqar import MQAR
from recurra.tasks.quirky.additions import Additions
from recurra.tasks.quirky.facts import Facts
from recurra.tasks.selective_copying import SelectiveCopying
from recurra.tasks.text import TextFiles
from recurra.tasks.transduction.compress import Compress
from recurra.tasks.transduction.copy import Copy
from recurra.tasks.transduction.expand import Expand
from recurra.tasks.transduction.reverse import Reverse
from recurra.tasks.transduction.sort import Sort
from recurra.tasks.translation import TranslationFiles

__all__ = ["TASKS", "Feed", "Kind", "Task", "name_of", "parse"]


class Feed(Protocol):
    """What a run reads: a pure function of seed and step, so that a resumed run reads what it would have."""

    def fresh(self, step: int) -> bool:
        """Whether the rows of a step start from no state; otherwise they go on from the step before."""

    def batch(self, step: int) -> tuple[Inputs, Tensor]:
        """Inputs [rows, T] or [rows, T, channels], or pairs; targets [rows, T], those of -100 or NaN do not
        count."""


class Task(Protocol):
    """The data of a run and what it is judged by, `metric`; `source` says where they come from.

    Inputs are tokens, `size` of them, those of a vocabulary or mere numbers; or, where there are `channels`,
    so many real numbers a step; or, where they are `paired`, a source and a target of such tokens. Targets
    are tokens too; or real numbers, and `size` is 1.
    """

    @property
    def name(self) -> str: ...
    @property
    def metric(self) -> str: ...
    @property
    def size(self) -> int: ...
    @property
    def channels(self) -> int: ...
    @property
    def paired(self) -> bool: ...
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

    def scores(self, model: Any, context: int, lengths: Sequence[int] = ()) -> dict[str, float]:
        """All that a trained model is worth, `accuracy@256` at length 256; lengths: empty for those that go
        with the context it was trained on.
        """

    def report(self, model: Any, context: int, lengths: Sequence[int] = ()) -> list[str]:
        """The same, in lines."""


class Kind(Protocol):
    """How a task is set up in a run's folder, found again there, and read from another file.

    A frozen dataclass: its fields are the options of the task. context: what a run takes unless told; paired:
    it is from sequence to sequence, for an encoder and a decoder; kind: of its vocabulary unless told. source
    is a file or folder, or both files where there are two; prepare(source, folder, kind, size, vocabulary) as
    in `tasks.text`.
    """

    @property
    def context(self) -> int: ...
    @property
    def paired(self) -> bool: ...
    @property
    def kind(self) -> str: ...
    def prepare(
        self, source: Any, run: Path, kind: str, size: int, vocabulary: Vocabulary | None, /
    ) -> Task: ...
    def load(self, run: Path, /) -> Task: ...
    def read(self, source: Any, vocabulary: Vocabulary | None, /) -> Task: ...


TASKS: dict[str, type[Kind]] = {
    "text": TextFiles,
    "selective_copying": SelectiveCopying,
    "induction": Induction,
    "mqar": MQAR,
    "adding": Adding,
    "listops": ListOps,
    "images": ImageFiles,
    "parity": Parity,
    "even_pairs": EvenPairs,
    "cycle_navigation": CycleNavigation,
    "modular_arithmetic": ModularArithmetic,
    "bucket_sort": BucketSort,
    "majority": Majority,
    "majority_count": MajorityCount,
    "missing_duplicate": MissingDuplicate,
    "additions": Additions,
    "facts": Facts,
    "translation": TranslationFiles,
    "copy": Copy,
    "reverse": Reverse,
    "sort": Sort,
    "compress": Compress,
    "expand": Expand,
}


def name_of(task: str) -> str:
    """Of a task with its options, as `parse` takes them."""
    return task.partition(":")[0]


def parse(task: str) -> Kind:
    """The task of `NAME` or `NAME:option=value,...`. Raises ValueError that names what is wrong."""
    name, colon, rest = task.partition(":")
    if name not in TASKS:
        raise ValueError(f"task must be one of {', '.join(TASKS)}, got {name!r}")
    return TASKS[name](**dict(_option(name, word) for word in rest.split(",") if colon))


def _option(name: str, word: str) -> tuple[str, Any]:
    """An option of a task from `option=value`, the value of the type of its field."""
    kinds, (key, _, value) = get_type_hints(TASKS[name]), word.partition("=")
    known = [field.name for field in dataclasses.fields(TASKS[name])]  # type: ignore[arg-type]
    if key not in known:
        raise ValueError(f"task {name} has no option {key!r}; known are {', '.join(known) or 'none'}")
    try:
        return key, kinds[key](value)
    except ValueError:
        raise ValueError(f"{key} of task {name} must be {kinds[key].__name__}, got {value!r}") from None
