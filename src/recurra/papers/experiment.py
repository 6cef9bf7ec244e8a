"""An experiment as data: a table of models by settings, what each run is told, and what was published."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from recurra.papers.matching import frozen, matched
from recurra.train.config import TrainConfig

__all__ = ["SCALES", "Experiment", "Published", "Run", "Scale", "grid"]

Options = Mapping[str, Any]

SCALES = ("small", "full")
# What the tags of published numbers mean: read in the paper, read where it is quoted, or recalled.
TRUST = {
    "R": "reported",
    "R2": "reported, as quoted",
    "REC": "reported, unverified",
    "REC+": "reported, unverified",
}


class Published(NamedTuple):
    """A number of a paper, in the experiment's unit, and how far it can be trusted (`says`)."""

    row: str
    column: str
    value: float
    tag: str
    spread: float | None = None

    @property
    def says(self) -> str:
        """The number as a report may print it: what was only recalled is named so."""
        around = "" if self.spread is None else f" ± {self.spread:g}"
        return f"{self.value:g}{around} ({TRUST[self.tag.partition(':')[0]]})"


@dataclass(frozen=True)
class Scale:
    """What all runs of a scale are told, how many seeds they take, and what a run is expected to cost.

    minutes: of two cores, by the names of rows; one number a column, or one for all columns. rows: what some
    rows are told besides, at this scale alone. fewer: seeds of the rows that take fewer.
    """

    options: Options
    seeds: int
    minutes: Mapping[str, float | tuple[float, ...]]
    rows: Mapping[str, Options] = field(default_factory=dict)
    fewer: Mapping[str, int] = field(default_factory=dict)

    def seeds_of(self, row: str) -> int:
        """How many runs a cell of this row has."""
        return self.fewer.get(row, self.seeds)


@dataclass(frozen=True, eq=False)  # one is itself alone: its tables can't be hashed
class Experiment:
    """A table: `rows` of models by `columns` of settings, each with the options of TrainConfig that it adds.

    reference: the row that sets the parameters of a column; the widths of all others follow from it. None:
    the widths are as written, and `note` says what that compares. measure: which of the task's scores is
    printed, in `unit` once multiplied by `factor`. beside: further tables, each of the scores whose names
    fit a pattern such as `bleu@length*`. figures: of `papers.figures`. studies: of `papers.studies`, what is
    done to each trained model; each adds scores and a table of its name. before: by column, what is told
    otherwise to a run that is trained first, with whose best weights the column's own begins.
    """

    name: str
    title: str
    paper: str
    rows: Mapping[str, Options]
    columns: Mapping[str, Options]
    scales: Mapping[str, Scale]
    measure: str
    unit: str = "accuracy"
    factor: float = 1.0
    lower: bool = False
    reference: str | None = None
    published: tuple[Published, ...] = ()
    beside: tuple[str, ...] = ()
    figures: tuple[str, ...] = ("curve",)
    studies: tuple[str, ...] = ()
    before: Mapping[str, Options] = field(default_factory=dict)
    note: str = ""


class Run(NamedTuple):
    """One cell of the table at one seed: exactly what `recurra train` would do with these options."""

    experiment: Experiment
    scale: str
    row: str
    column: str
    seed: int

    @property
    def options(self) -> dict[str, Any]:
        """All that differs from the defaults of TrainConfig."""
        found, reference = self._told(self.row), self.experiment.reference
        if reference not in {None, self.row}:
            found["width"] = matched(frozen(found), frozen(self._told(str(reference))))
        return {**found, "seed": self.seed}

    @property
    def before(self) -> Options | None:
        """What the run that it begins with is told otherwise; None where it begins anew."""
        return self.experiment.before.get(self.column)

    @property
    def config(self) -> TrainConfig:
        """The same, as training takes it. Raises ValueError, naming the option, where one is wrong."""
        return TrainConfig(**self.options)

    @property
    def minutes(self) -> float:
        """Expected, of two cores."""
        given = self.experiment.scales[self.scale].minutes[self.row]
        return given[list(self.experiment.columns).index(self.column)] if isinstance(given, tuple) else given

    def value(self, scores: Mapping[str, float]) -> float:
        """What the table prints, of a task's scores."""
        e = self.experiment
        return scores[e.measure.format(context=self.config.context)] * e.factor

    @property
    def name(self) -> str:
        """Of its folder and its result; runs of other options have other names."""
        told = {**self.options, "seed": None}
        if self.before is not None:
            told["before"] = self.before
        kept = json.dumps(told, sort_keys=True)
        words = "-".join((self.row, self.column)).lower()
        plain = "".join(c if c.isalnum() or c in "-." else "_" for c in words)
        return f"{plain}-{hashlib.sha256(kept.encode()).hexdigest()[:6]}-{self.seed}"

    def _told(self, row: str) -> dict[str, Any]:
        e = self.experiment
        scale = e.scales[self.scale]
        return {**scale.options, **e.columns[self.column], **e.rows[row], **scale.rows.get(row, {})}


def grid(
    experiment: Experiment, scale: str, rows: tuple[str, ...] = (), seeds: int | None = None
) -> list[Run]:
    """The runs of a scale, all cells of a seed before the next seed. Raises ValueError for unknown rows."""
    if unknown := [row for row in rows if row not in experiment.rows]:
        raise ValueError(f"{experiment.name} has the models {', '.join(experiment.rows)}, got {unknown[0]!r}")
    counts = {row: seeds or experiment.scales[scale].seeds_of(row) for row in rows or experiment.rows}
    return [
        Run(experiment, scale, row, column, seed)
        for seed in range(max(counts.values()))
        for column in experiment.columns
        for row, count in counts.items()
        if seed < count
    ]
