"""Pictures of the layer timings: bars against the matrix products, or time and memory against T."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from recurra.bench.contenders import GEMMS, MINGRU, MINLSTM
from recurra.bench.report import Row, need

COLOURS = {
    MINGRU: "tab:blue",
    "its GEMMs (D -> 2D)": "tab:blue",
    "ops.project (D -> 2D)": "tab:blue",
    "nn.GRU": "tab:cyan",
    "GRUCell loop": "tab:gray",
    "minGRU-pytorch minGRU": "tab:purple",
    MINLSTM: "tab:orange",
    "its GEMMs (D -> 3D)": "tab:orange",
    "ops.project (D -> 3D)": "tab:orange",
    "nn.LSTM": "tab:red",
    "minGRU-pytorch minLSTM": "tab:pink",
}


def _style(name: str) -> str:
    """Dashes for matrix products alone, dots for those through `project`, lines for layers."""
    return "--" if name in GEMMS.values() else ":" if name.startswith("ops.project") else "-"


def _bars(axes: Any, rows: Sequence[Row]) -> None:
    """Milliseconds of each contender at one shape, with quartiles, and its GEMMs as dashed lines."""
    timed = [row for row in rows if row.get("over_gemms")][::-1]
    middle = [row["median_ms"] for row in timed]
    low = [row["median_ms"] - row["q1_ms"] for row in timed]
    high = [row["q3_ms"] - row["median_ms"] for row in timed]
    names = [row["contender"] for row in timed]
    axes.barh(names, middle, xerr=[low, high], color=[COLOURS[name] for name in names])
    for layer, name in GEMMS.items():
        ms = next(row["median_ms"] for row in timed if row["contender"] == name)
        axes.axvline(ms, color=COLOURS[layer], linestyle="--", linewidth=1, label=name)
    axes.set_xscale("log")
    axes.set_xlabel("ms, forward + backward (median, quartiles)")
    axes.set_title("B = {batch}, T = {time}, D = {width}".format(**rows[0]), fontsize=10)
    axes.legend(fontsize=7, loc="upper right")


def _lines(axes: Any, rows: Sequence[Row], column: str, label: str) -> None:
    """One line a contender against T, on two logarithmic axes."""
    for name in dict.fromkeys(row["contender"] for row in rows if row.get(column) and row.get("over_gemms")):
        points = [(row["time"], row[column]) for row in rows if row["contender"] == name and row.get(column)]
        times, values = zip(*points, strict=True)
        axes.plot(times, values, _style(name), color=COLOURS[name], marker="o", markersize=3, label=name)
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    axes.set_xlabel("T, steps")
    axes.set_ylabel(label)
    axes.legend(fontsize=7)


def _figure(panels: int, title: str) -> tuple[Any, list[Any]]:
    columns = min(panels, 3)
    lines = -(-panels // columns)
    size = (6.5 * columns, 4.5 * lines)
    figure = need("matplotlib.figure", "bench").Figure(figsize=size, layout="constrained")
    figure.suptitle(title, fontsize=11)
    return figure, [figure.add_subplot(lines, columns, i + 1) for i in range(panels)]


def draw_shapes(path: Path, shapes: Sequence[Sequence[Row]], title: str) -> None:
    """One panel of bars a shape."""
    figure, panels = _figure(len(shapes), title)
    for axes, rows in zip(panels, shapes, strict=True):
        _bars(axes, rows)
    figure.savefig(path, dpi=110)


def draw_long(path: Path, shapes: Sequence[Sequence[Row]], title: str) -> None:
    """Time and peak memory against T."""
    rows = [row for group in shapes for row in group]
    figure, panels = _figure(2, title)
    _lines(panels[0], rows, "median_ms", "ms, forward + backward (median)")
    _lines(panels[1], rows, "peak_mib", "MiB, peak of one pass less the baseline")
    figure.savefig(path, dpi=110)
