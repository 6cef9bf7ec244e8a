"""Pictures of finished runs: learning curves, accuracy against length, quality against size and time."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from statistics import mean
from typing import Any

from recurra.bench.plot import canvas
from recurra.papers.experiment import SCALES, Experiment
from recurra.papers.panels import label
from recurra.papers.results import Found
from recurra.papers.study_figures import depth, doses, probes

__all__ = ["FIGURES", "draw"]

Points = list[tuple[float, float]]


def draw(e: Experiment, found: Sequence[Found], folder: Path) -> Iterator[tuple[Path, str]]:
    """The experiment's pictures of each scale that was run: where they are, and what they show."""
    folder.mkdir(parents=True, exist_ok=True)
    for scale in SCALES:
        runs = [f for f in found if f.run.scale == scale]
        for name in e.figures if runs else ():
            path = folder / f"{e.name}-{scale}-{name}.png"
            FIGURES[name](e, runs, f"{e.title}, {scale} scale").savefig(path, dpi=100)
            yield path, f"{e.title}, {scale} scale: {name}"


def curve(e: Experiment, found: Sequence[Found], title: str) -> Any:
    """Held-out score against steps, a panel a setting."""
    return _panels(e, found, title, ("step",))


def spent(e: Experiment, found: Sequence[Found], title: str) -> Any:
    """Held-out score against what was read and against the clock, panels for each setting."""
    return _panels(e, found, title, ("tokens", "seconds"))


def length(e: Experiment, found: Sequence[Found], title: str) -> Any:
    """Scaled accuracy against the length of the word, a panel a language."""
    columns = _columns(e, found)
    picture, panels = canvas(len(columns), title)
    for axes, column in zip(panels, columns, strict=True):
        for row, results in _rows(e, found, column):
            _line(axes, row, [_lengths(result["scores"]) for result in results])
        label(axes, column, "length", "scaled accuracy")
        axes.set_ylim(-0.1, 1.05)
        axes.axvline(found[0].run.config.context, linestyle=":", color="gray")
    return picture


def parameters(e: Experiment, found: Sequence[Found], title: str) -> Any:
    """Final score against parameters and against the minutes that training took."""
    picture, panels = canvas(2, title)
    ends: tuple[tuple[str, Callable[[dict[str, Any]], float]], ...] = (
        ("parameters", lambda result: float(result["parameters"])),
        ("minutes of training", lambda result: result["seconds"] / 60),
    )
    for axes, (said, x) in zip(panels, ends, strict=True):
        _ends(axes, e, found, x)
        label(axes, "", said, e.unit)
        axes.set_xscale("log")
    return picture


def state(e: Experiment, found: Sequence[Found], title: str) -> Any:
    """Final score against the numbers that a model remembers at the end of a sequence; a panel a task."""
    tasks = {f.run: f.run.config.task for f in found}
    names = dict.fromkeys(tasks.values())
    picture, panels = canvas(len(names), title)
    for axes, task in zip(panels, names, strict=True):
        _ends(axes, e, [f for f in found if tasks[f.run] == task], lambda result: float(result["state"]))
        label(axes, task, "numbers in the state", e.unit)
        axes.set_xscale("log")
    return picture


def settings(e: Experiment, found: Sequence[Found], title: str) -> Any:
    """Share of right answers, one by one and all of a sequence, against the settings in their order."""
    columns = _columns(e, found)
    picture, panels = canvas(2, title)
    for axes, share in zip(panels, ("accuracy", "whole"), strict=True):
        for row, seeds in _by_seed(e, found).items():
            _line(axes, row, [_shares(cells, columns, share) for cells in seeds])
        label(axes, "", "", f"% right, {'all of a sequence' if share == 'whole' else 'each answer'}")
        axes.set_xticks(range(len(columns)), columns)
    return picture


def parts(e: Experiment, found: Sequence[Found], title: str) -> Any:
    """BLEU of parts of what is tested on: by length, and by ratio of lengths."""
    picture, panels = canvas(2, title)
    kinds = (("length", "tokens of the source"), ("ratio", "tokens of the reference for each of the source"))
    for axes, (kind, said) in zip(panels, kinds, strict=True):
        start, names = f"bleu@{kind} ", list[str]()
        for column in _columns(e, found):
            for row, results in _rows(e, found, column):
                cut = [{k: v for k, v in r["scores"].items() if k.startswith(start)} for r in results]
                names = [name.removeprefix(start) for name in cut[0]]
                _line(axes, row, [list(enumerate(values.values())) for values in cut])
        label(axes, "", said, "BLEU")
        axes.set_xticks(range(len(names)), names)
    return picture


FIGURES: dict[str, Callable[[Experiment, Sequence[Found], str], Any]] = {
    "curve": curve,
    "spent": spent,
    "length": length,
    "parameters": parameters,
    "state": state,
    "settings": settings,
    "parts": parts,
    "depth": depth,
    "doses": doses,
    "probes": probes,
}


def _panels(e: Experiment, found: Sequence[Found], title: str, against: tuple[str, ...]) -> Any:
    places = [(column, x) for column in _columns(e, found) for x in against]
    picture, panels = canvas(len(places), title)
    for axes, (column, x) in zip(panels, places, strict=True):
        for row, results in _rows(e, found, column):
            curves = [result["curve"] for result in results]
            _line(axes, row, [[*zip(c[x], (e.factor * v for v in c["score"]), strict=True)] for c in curves])
        label(axes, column, x, e.unit)
    return picture


def _ends(axes: Any, e: Experiment, found: Sequence[Found], x: Callable[[dict[str, Any]], float]) -> None:
    """A point for each setting of each model: means over seeds."""
    for row in e.rows:
        cells = [[f for f in found if (f.run.row, f.run.column) == (row, column)] for column in e.columns]
        points = [
            (mean(x(f.result) for f in cell), mean(f.run.value(f.result["scores"]) for f in cell))
            for cell in cells
            if cell
        ]
        if points:
            axes.plot(*zip(*sorted(points), strict=True), "o-", markersize=4, label=row)


def _columns(e: Experiment, found: Sequence[Found]) -> list[str]:
    """Those of which something was run."""
    return [column for column in e.columns if any(f.run.column == column for f in found)]


def _rows(e: Experiment, found: Sequence[Found], column: str) -> Iterator[tuple[str, list[dict[str, Any]]]]:
    for row in e.rows:
        results = [f.result for f in found if (f.run.row, f.run.column) == (row, column)]
        if results:
            yield row, results


def _by_seed(e: Experiment, found: Sequence[Found]) -> dict[str, list[list[Found]]]:
    """Of each row that was run the runs of every seed."""
    rows = {row: [f for f in found if f.run.row == row] for row in e.rows}
    return {
        row: [[f for f in cells if f.run.seed == seed] for seed in sorted({f.run.seed for f in cells})]
        for row, cells in rows.items()
        if cells
    }


def _shares(cells: Sequence[Found], columns: Sequence[str], share: str) -> Points:
    """Per cent, by the number of the column."""
    named = {columns.index(f.run.column): (f.result["scores"], f.run.config.context) for f in cells}
    at = {i: scores.get(f"{share}@{context}") for i, (scores, context) in sorted(named.items())}
    return [(float(i), 100 * value) for i, value in at.items() if value is not None]


def _lengths(scores: dict[str, float]) -> Points:
    """Of scores at single lengths."""
    at = [(name.removeprefix("scaled_accuracy@"), value) for name, value in scores.items()]
    return [(float(where), value) for where, value in at if where.isdigit()]


def _line(axes: Any, name: str, seeds: Sequence[Points]) -> None:
    """The mean of the seeds; each alone is thin."""
    lines = [list(zip(*points, strict=True)) for points in seeds if points]
    if not lines:
        return
    drawn = axes.plot(lines[0][0], [mean(v) for v in zip(*(y for _, y in lines), strict=False)], label=name)
    for x, y in lines if len(lines) > 1 else ():
        axes.plot(x, y, color=drawn[0].get_color(), linewidth=0.5, alpha=0.6)
