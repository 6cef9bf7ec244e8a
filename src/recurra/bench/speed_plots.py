"""Pictures of the speed report: the paper's figure, the roofline, a token's cost against its position."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from recurra.bench.baselines import COMPILED_CELL, COMPILED_LOOP, LOOP, MAMBA, MINGRU, MINLSTM
from recurra.bench.paper import FACTORS
from recurra.bench.plot import canvas
from recurra.bench.report import Row
from recurra.bench.roofline import Roof

__all__ = ["draw_figure", "draw_position", "lines", "paper_figure", "position_figure", "roof_figure"]

OURS = {MINGRU: "tab:blue", MINLSTM: "tab:orange", MAMBA: "tab:green"}
KINDS = {"GRU": "tab:cyan", "LSTM": "tab:red"}
STYLES = {LOOP: "--", COMPILED_LOOP: ":", COMPILED_CELL: "-."}


def _look(layer: str) -> dict[str, Any]:
    """Colour and line: ours thick, the library's kernel thin, loops broken; of others as they come."""
    if layer in OURS:
        return {"color": OURS[layer], "linewidth": 2}
    kind, _, baseline = layer.partition(", ")
    if kind not in KINDS:
        return {"linewidth": 1}
    return {"color": KINDS[kind], "linestyle": STYLES.get(baseline, "-"), "linewidth": 1}


def paper_figure(rows: Sequence[Row], title: str) -> Any:
    """Time, speed-up and memory against T, a line of panels a width."""
    widths = sorted({row["width"] for row in rows})
    picture, panels = canvas(3 * len(widths), title)
    for i, width in enumerate(widths):
        of = [row for row in rows if row["width"] == width]
        time, factor, memory = panels[3 * i : 3 * i + 3]
        lines(time, of, "median_ms", f"D = {width}: ms, forward + backward (median)")
        lines(
            factor, [row for row in of if row["layer"] not in OURS], "over_recurra", "times recurra's layer"
        )
        _published(factor)
        lines(memory, of, "peak_mib", "MiB, peak of a step")
    return picture


def lines(axes: Any, rows: Sequence[Row], column: str, label: str) -> None:
    """One line a layer against T, on two logarithmic axes."""
    for layer in dict.fromkeys(row["layer"] for row in rows if row.get(column)):
        points = [(row["time"], row[column]) for row in rows if row["layer"] == layer and row.get(column)]
        axes.plot(*zip(*points, strict=True), marker="o", markersize=3, label=layer, **_look(layer))
    axes.set_xscale("log", base=2)
    _finish(axes, "T, steps", label)


def _published(axes: Any) -> None:
    for kind, colour in KINDS.items():
        points = [(f.time, f.value) for f in FACTORS if f.kind == kind]
        axes.plot(*zip(*points, strict=True), "*", color=colour, markersize=9, label=f"the paper, {kind}, T4")
    axes.legend(fontsize=7)


def _finish(axes: Any, x: str, y: str) -> None:
    axes.set_yscale("log")
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    if axes.get_legend_handles_labels()[0]:
        axes.legend(fontsize=7)


def roof_figure(roofs: Sequence[Roof], title: str) -> Any:
    """What memory and matrix products allow at so many operations a byte, and what the layers reach."""
    picture, panels = canvas(len(roofs), title)
    for axes, roof in zip(panels, roofs, strict=True):
        ridge = roof.tflop_per_s / roof.gb_per_s * 1e3
        at = [0.5, ridge, max(1024.0, 2 * ridge)]
        axes.plot(at, [roof.allowed(x) for x in at], color="black", linewidth=1)
        for layer in dict.fromkeys(point.layer for point in roof.points):
            points = [(p.intensity, p.tflop_per_s) for p in roof.points if p.layer == layer]
            axes.plot(*zip(*points, strict=True), "o", markersize=4, color=OURS[layer], label=layer)
        axes.set_xscale("log", base=2)
        axes.set_title(roof.dtype, fontsize=10)
        _finish(axes, "operations a byte", "TFLOP/s, forward + backward")
    return picture


def position_figure(rows: Sequence[Row], title: str) -> Any:
    """Time a token, the state and the process against the position."""
    picture, panels = canvas(3, title)
    columns = {"median_us": "µs a token (median)", "state_mib": "MiB, state", "resident_mib": "MiB, process"}
    for axes, (column, label) in zip(panels, columns.items(), strict=True):
        _against_position(axes, rows, column, label)
    return picture


def _against_position(axes: Any, rows: Sequence[Row], column: str, label: str) -> None:
    for model in dict.fromkeys(row["model"] for row in rows if row.get(column)):
        points = [(row["position"], row[column]) for row in rows if row["model"] == model and row.get(column)]
        axes.plot(*zip(*points, strict=True), "o-", markersize=3, label=model)
    axes.set_xscale("log")
    _finish(axes, "position, tokens", label)


def draw_figure(path: Path, groups: Sequence[Sequence[Row]], title: str) -> None:
    """`paper_figure` of rows in the first dtype among them."""
    rows = [row for group in groups for row in group]
    shown = [row for row in rows if row["dtype"] == rows[0]["dtype"]]
    paper_figure(shown, f"{title}, {rows[0]['dtype']}").savefig(path, dpi=110)


def draw_position(path: Path, groups: Sequence[Sequence[Row]], title: str) -> None:
    """`position_figure` of all rows."""
    position_figure([row for group in groups for row in group], title).savefig(path, dpi=110)
