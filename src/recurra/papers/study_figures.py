"""Pictures of what studies found: lenses by depth, answers and text by dose, probes by block."""

from collections.abc import Iterable, Sequence
from itertools import product
from typing import Any

from recurra.bench.plot import canvas
from recurra.bench.report import Row
from recurra.papers.experiment import Experiment
from recurra.papers.panels import label
from recurra.papers.results import Found
from recurra.tasks.quirky.common import CONTEXTS

__all__ = ["depth", "doses", "probes"]

STYLES = {"logit": "--", "tuned": "-", "state": ":", "block": "-"}


def depth(e: Experiment, found: Sequence[Found], title: str) -> Any:
    """KL and bits per byte against relative depth: dashed the logit lens, dotted the state's."""
    picture, panels = canvas(3, title)
    for axes, (unit, names) in zip(
        panels,
        (("KL", ("logit", "tuned")), ("bits/byte", ("logit", "tuned")), ("KL", ("state",))),
        strict=True,
    ):
        for run, result in found:
            rows = [row for row in _table(result, "lenses") if row["block"] != "model"]
            for name in names:
                points = [((row["block"] + 1) / run.config.depth, row.get(f"{name} {unit}")) for row in rows]
                _line(axes, points, STYLES[name], _colour(e, run.row), "" if name == "logit" else run.row)
        axes.set_yscale("log")
        said = "KL to the model, bits/byte" if unit == "KL" else "bits per byte"
        lens = "lens on the state" if names == ("state",) else "logit lens (dashed), tuned lens"
        label(axes, lens, "share of the blocks", said)
    return picture


def doses(e: Experiment, found: Sequence[Found], title: str) -> Any:
    """Answers and text against the multiplier, at the chosen blocks; a panel a behaviour and place."""
    rows = [(run.row, row) for run, result in found for row in _table(result, "doses")]
    behaviours, places = (dict.fromkeys(row[key] for _, row in rows) for key in ("behaviour", "on"))
    shown = list(product(("matching", "bits_per_byte"), behaviours, places))
    picture, panels = canvas(max(len(shown), 1), title)
    for axes, (column, behaviour, on) in zip(panels, shown, strict=False):
        for name in e.rows:
            own = [
                row for model, row in rows if (model, row["behaviour"], row["on"]) == (name, behaviour, on)
            ]
            _line(axes, ((row["multiplier"], row[column]) for row in own), "-", _colour(e, name), name)
        said = "share of the matching answer" if column == "matching" else "bits per byte of text"
        label(axes, f"{behaviour}: {on}", "multiplier", said)
    return picture


def probes(e: Experiment, found: Sequence[Found], title: str) -> Any:
    """AUROC on Bob's hard statements by block: solid on blocks, dotted on states; the model's own there, and
    where it says what is true."""
    _, truthful, _, tried = map(str, CONTEXTS)
    picture, panels = canvas(len(found), title)
    for axes, (run, result) in zip(panels, found, strict=True):
        rows = _table(result, "probes")
        names = list(dict.fromkeys(row["probe"] for row in rows if "on" in row))
        for on, (i, name) in product(("block", "state"), enumerate(names)):
            own = [row for row in rows if (row["probe"], row.get("on")) == (name, on)]
            points = [(row["block"], row[tried]) for row in own]
            _line(axes, points, STYLES[on], f"C{i}", name if on == "block" else "")
        for row in rows[:1]:  # the model's own answers
            for name, style in ((tried, "--"), (truthful, "-.")):
                axes.axhline(row[name], linestyle=style, color="black", label=f"the model, {name}")
        axes.set_ylim(-0.02, 1.02)
        label(axes, f"{run.row}, {run.column}", "block", f"AUROC, {tried}")
    return picture


def _table(result: dict[str, Any], name: str) -> list[Row]:
    rows: list[Row] = result.get("tables", {}).get(name, [])
    return rows


def _colour(e: Experiment, row: str) -> str:
    return f"C{list(e.rows).index(row)}"


def _line(axes: Any, points: Iterable[tuple[Any, Any]], style: str, colour: str, name: str) -> None:
    """Of those points that are known."""
    known = [(x, y) for x, y in points if y is not None]
    if known:
        axes.plot(
            *zip(*known, strict=True), style, color=colour, marker="o", markersize=3, label=name or None
        )
