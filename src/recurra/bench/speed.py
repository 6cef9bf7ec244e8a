"""The speed report: one page of what the result files of a folder say, each with its machine and its day."""

import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from recurra.bench import speed_plots, tables
from recurra.bench.page import Heading, Part, Picture, Table, html_page
from recurra.bench.paper import MEMORY, TRUST
from recurra.bench.plot import canvas
from recurra.bench.report import Row, write_text
from recurra.bench.results import Device, devices, load, made_by
from recurra.bench.roofline import roofs

__all__ = ["write"]

INTRODUCTION = (
    "Made from the result files beside this page by `recurra bench report`. Times are medians; unless a line "
    "says otherwise a time is of forward and backward of one layer, to the gradients of its input and of all "
    "its parameters. Memory is the peak of such a step: at batch 64 with the input and the gradient of the "
    "output, against T without these two."
)
FIGURE, ROOFLINE = "recurra bench figure", "recurra bench roofline"
THREADS = "recurra bench train --threads 1 --out results/threads-1"


def write(results: Path) -> Path:
    """report.html, which is one file, and its pictures below report/."""
    folder = results / "report"
    folder.mkdir(parents=True, exist_ok=True)
    found = list(devices(results))
    parts: list[Part] = [Heading("Speed and memory", 1), INTRODUCTION]
    parts += _paper(found, folder)
    parts += _memory(found)
    parts += _lengths(results, folder)
    parts += _layers(results)
    parts += _roofline(found, folder)
    parts += _position(results, folder)
    parts += _threads(results)
    parts += _files(results)
    write_text(results / "report.html", html_page(parts, "recurra: speed and memory"))
    return results / "report.html"


def missing(what: str, *commands: str) -> str:
    """What a section says that has no file."""
    return f"{what}: not measured here yet; to be made by {' and '.join(f'`{c}`' for c in commands)}."


def _save(picture: Any, path: Path, caption: str) -> Picture:
    picture.savefig(path, dpi=100)
    return Picture(path, caption)


def _stem(*words: str) -> str:
    return "-".join(re.sub("[^a-z0-9]+", "_", word.lower()).strip("_") for word in words)


def _cpu_missing(found: Sequence[Device]) -> Iterator[str]:
    if not any("cpu" in d.figure.made and d.figure.rows for d in found):
        yield missing("On a CPU", FIGURE)
    if not any("device" in d.figure.made for d in found):
        yield missing("On a GPU", "python benchmarks/gpu.py --all")


def _paper(found: Sequence[Device], folder: Path) -> Iterator[Part]:
    yield Heading("How much faster than a GRU: which GRU", 2)
    yield TRUST
    yield (
        "Below, how many times longer each baseline takes than recurra's layer of the same width, batch 64. "
        "A loop over cells is Python calling nn.GRUCell or nn.LSTMCell at each step; torch.compile unrolls "
        "such a loop, so that for many steps only its cell is compiled. On a CPU nn.LSTM is oneDNN's, while "
        "nn.GRU is a loop of torch's own in C++. In brackets: both sides as one CUDA graph each, which takes "
        "away what Python and launches cost and leaves the work."
    )
    yield from _cpu_missing(found)
    for device in (d for d in found if d.figure.rows):
        yield Heading(device.name, 3)
        yield made_by(device.figure.made)
        yield tables.factors(device)
        yield from _pictures(device, folder)
        yield from _reasons(device.figure.rows)


def _pictures(device: Device, folder: Path) -> Iterator[Part]:
    rows = device.figure.rows
    kinds = list(dict.fromkeys((row["dtype"], row["graph"]) for row in rows if row.get("median_ms")))
    for dtype, graph in kinds:
        of = [row for row in rows if (row["dtype"], row["graph"]) == (dtype, graph)]
        title = ", ".join((device.name, dtype, *(["as CUDA graphs"] if graph else [])))
        path = folder / f"{_stem('figure', device.name, dtype, *(['graphs'] if graph else []))}.png"
        dated = f"{title}, batch {of[0]['batch']}, {device.figure.made['date'][:10]}"
        yield _save(speed_plots.paper_figure(of, dated), path, dated)


def _reasons(rows: Sequence[Row]) -> Iterator[str]:
    """Why some were not timed: a reason once."""
    why = sorted({row["skipped"] for row in rows if row.get("skipped")})
    if why:
        yield f"Not timed: {'; '.join(why)}."


def _memory(found: Sequence[Device]) -> Iterator[Part]:
    yield Heading("Memory", 2)
    yield MEMORY
    yield from _cpu_missing(found)
    for device in (d for d in found if d.figure.rows):
        yield Heading(f"{device.name}: MiB of a step, batch 64", 3)
        yield made_by(device.figure.made)
        yield tables.memory(device)


def _lengths(results: Path, folder: Path) -> Iterator[Part]:
    yield Heading("Time and memory against T", 2)
    plans = (
        ("long", "Layers at batch 1, width 256", "recurra bench layers --long", "contender"),
        ("models", "Blocks of equal parameters at batch 1", "recurra bench models --peers", "model"),
    )
    for stem, what, command, by in plans:
        if not (found := load(results, stem)):
            yield missing(what, command)
            continue
        yield Heading(what, 3)
        yield made_by(found.made)
        rows = [row for row in found.rows if row.get("table", "length") == "length"]
        rows = [row for row in rows if not row[by].startswith("copy")]
        yield tables.pivot([row for row in rows if row.get("median_ms")], by, "time", "median_ms")
        dated = f"{what}: {found.made['cpu']}, {found.made['date'][:10]}"
        yield _save(_against_steps(rows, by, dated), folder / f"{stem}.png", dated)


def _against_steps(rows: Sequence[Row], by: str, title: str) -> Any:
    picture, panels = canvas(2, title)
    columns = {"median_ms": "ms (median)", "peak_mib": "MiB, peak of a step"}
    for axes, (column, label) in zip(panels, columns.items(), strict=True):
        speed_plots.lines(axes, [{**row, "layer": row[by]} for row in rows], column, label)
    return picture


def _layers(results: Path) -> Iterator[Part]:
    yield Heading("Layers beside torch.nn's, in ms", 2)
    if found := load(results, "layers"):
        yield made_by(found.made)
        yield tables.layer_times(found)
    else:
        yield missing("Layers", "recurra bench layers")


def _roofline(found: Sequence[Device], folder: Path) -> Iterator[Part]:
    yield Heading("Roofline", 2)
    yield (
        "What a copy of memory and a large square matrix product reach on each machine, what a whole layer "
        "makes of them, and how near to a copy's speed the recurrence alone comes. A layer is a matrix "
        "product and a recurrence one after the other, so that all of what is allowed is out of reach; large "
        "caches lift some points above the slope."
    )
    if not any("cpu" in d.roof.made and d.roof.rows for d in found):
        yield missing("On a CPU", ROOFLINE)
    for device in (d for d in found if d.roof.rows):
        yield Heading(device.name, 3)
        yield made_by(device.roof.made)
        yield tables.roof_rows(device)
        if device.scan.rows:
            yield tables.scan_shares(device)
        if made := list(roofs(device)):
            yield tables.roof_shares(device)
            title = f"{device.name}, {device.figure.made['date'][:10]}"
            path = folder / f"{_stem('roofline', device.name)}.png"
            yield _save(speed_plots.roof_figure(made, title), path, f"Roofline: {title}")


def _position(results: Path, folder: Path) -> Iterator[Part]:
    yield Heading("A token's cost against its position", 2)
    if not (found := load(results, "position")):
        yield missing("Tokens of a long text", "recurra bench position")
        return
    yield (
        "Microseconds of a written token at batch 1 on one thread after a text of so many tokens, models of "
        "about ten million parameters (arXiv 2405.13956 draws this for Aaren and a Transformer with a cache)."
    )
    yield made_by(found.made)
    yield tables.positions(found.rows)
    title = f"{found.made['cpu']}, one thread, {found.made['date'][:10]}"
    path = folder / "position.png"
    yield _save(speed_plots.position_figure(found.rows, title), path, f"Cost against position: {title}")


def _threads(results: Path) -> Iterator[Part]:
    yield Heading("A training step and its threads", 2)
    folders = [results, *sorted(results.glob("threads-*"))]
    found = [measured for folder in folders if (measured := load(folder, "train"))]
    if found:
        yield from map(made_by, (measured.made for measured in found))
        yield tables.thread_times(sorted(found, key=lambda measured: int(measured.made["threads"])))
    if len(found) < 2:
        yield missing("Thread scaling", *([] if found else ["recurra bench train"]), THREADS)


def _files(results: Path) -> Iterator[Part]:
    yield Heading("All result files", 2)
    heads = ("file", "machine", "day", "command")
    records = {path: json.loads(path.read_text(encoding="utf-8")) for path in sorted(results.glob("*.json"))}
    made = {path.name: record.get("machine", record) for path, record in records.items()}
    values = (
        (name, m.get("device") or m["cpu"], m["date"][:10], m["command"])
        for name, m in made.items()
        if {"date", "command"} <= m.keys()
    )
    yield Table(heads, [dict(zip(heads, line, strict=True)) for line in values])
