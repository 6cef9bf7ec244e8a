"""Pictures of the timings: bars against the matrix products, or time, speed and memory against length."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from recurra.bench.baselines import MINGRU, MINLSTM
from recurra.bench.contenders import GEMMS
from recurra.bench.report import Row
from recurra.extras import need

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
    axes.set_xlabel("ms, fp32, forward + backward (median, quartiles)")
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


def canvas(panels: int, title: str) -> tuple[Any, list[Any]]:
    columns = min(panels, 3)
    lines = -(-panels // columns)
    size = (6.5 * columns, 4.5 * lines)
    figure = need("matplotlib.figure", "bench").Figure(figsize=size, layout="constrained")
    figure.suptitle(title, fontsize=11)
    return figure, [figure.add_subplot(lines, columns, i + 1) for i in range(panels)]


def draw_shapes(path: Path, shapes: Sequence[Sequence[Row]], title: str) -> None:
    """One panel of bars a shape."""
    figure, panels = canvas(len(shapes), title)
    for axes, rows in zip(panels, shapes, strict=True):
        _bars(axes, rows)
    figure.savefig(path, dpi=110)


def draw_long(path: Path, shapes: Sequence[Sequence[Row]], title: str) -> None:
    """Time and peak memory against T."""
    rows = [row for group in shapes for row in group]
    figure, panels = canvas(2, title)
    _lines(panels[0], rows, "median_ms", "ms, fp32, forward + backward (median)")
    _lines(panels[1], rows, "peak_mib", "MiB, peak of one pass less the baseline")
    figure.savefig(path, dpi=110)


def draw_train(path: Path, groups: Sequence[Sequence[Row]], title: str) -> None:
    """Each model's step, in both precisions, with its products; tokens per second against the context."""
    steps, contexts = groups
    figure, (bars, lines) = canvas(2, title)
    whole = [row for row in steps if row["part"] == "step"][::-1]
    bars.barh([_name(row) for row in whole], [row["median_ms"] for row in whole], color="lightgray")
    for part in dict.fromkeys(row["part"] for row in steps if row["part"] != "step"):
        timed = [row for row in steps if row["part"] == part]
        bars.plot([row["median_ms"] for row in timed], [_name(row) for row in timed], "|", ms=16, label=part)
    bars.set_xscale("log")
    bars.set_xlabel("ms, a whole step (median)")
    if len(whole) < len(steps):
        bars.legend(fontsize=7)
    _against(lines, contexts, "context", "tokens_per_s", "model")
    lines.set_xscale("log", base=2)
    lines.set_ylabel("tokens/s, equal tokens a step")
    figure.savefig(path, dpi=110)


def draw_generate(path: Path, groups: Sequence[Sequence[Row]], title: str) -> None:
    """Time a token and memory of the process against the length of the text."""
    figure, (times, memory) = canvas(2, title)
    rows = [{**row, "label": f"{row['parameters']:,} parameters"} for group in groups for row in group]
    _against(times, [row for row in rows if row.get("at_token")], "at_token", "median_us", "label")
    for row in (row for row in rows if row.get("read_us")):
        times.axhline(row["read_us"], linestyle="--", linewidth=1, color="gray")
    times.set_yscale("log")
    times.autoscale(axis="y")
    times.set_ylabel("µs a token (median); dashed: reading the weights")
    _against(memory, [row for row in rows if row.get("resident_mib")], "at_token", "resident_mib", "label")
    memory.set_ylabel("MiB, resident")
    figure.savefig(path, dpi=110)


def draw_models(path: Path, groups: Sequence[Sequence[Row]], title: str) -> None:
    """Time a token and peak memory of each block against T, at equal parameters."""
    figure, panels = canvas(2, f"{title}; batch 1, equal parameters, forward + backward")
    columns = {"us_per_token": "µs a token (median)", "peak_mib": "MiB, peak of one pass less the baseline"}
    for axes, (column, label) in zip(panels, columns.items(), strict=True):
        _against(axes, [row for row in groups[-1] if row.get(column)], "time", column, "model")
        axes.set_xscale("log", base=2)
        axes.set_yscale("log")
        axes.autoscale(axis="y")
        axes.set_ylabel(label)
    figure.savefig(path, dpi=110)


def _name(row: Row) -> str:
    return f"{row['model']}, {row['precision']}"


def _against(axes: Any, rows: Sequence[Row], x: str, y: str, by: str) -> None:
    """One line a model, or whatever else `by` tells apart."""
    if not rows:
        return
    for name in dict.fromkeys(row[by] for row in rows):
        points = [(row[x], row[y]) for row in rows if row[by] == name]
        axes.plot(*zip(*points, strict=True), "o-", markersize=3, label=name)
    axes.set_ylim(0, 1.2 * max(row[y] for row in rows))
    axes.set_xscale("log")
    axes.set_xlabel(x.replace("_", " "))
    axes.legend(fontsize=7)
