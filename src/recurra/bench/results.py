"""Result files read back: rows as numbers, each with the record of how they were made."""

import csv
import json
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from recurra.bench.report import Row

__all__ = ["Device", "Measured", "devices", "load", "made_by"]


class Measured(NamedTuple):
    """Rows of one file, and how they were made."""

    rows: list[Row]
    made: Row

    def of(self, **wanted: object) -> list[Row]:
        """The rows that have these values."""
        return [row for row in self.rows if all(row.get(key) == value for key, value in wanted.items())]


class Device(NamedTuple):
    """A CPU or a GPU: the figure on it, what it gives at the most, and the recurrence alone."""

    name: str
    figure: Measured
    roof: Measured
    scan: Measured


def _value(text: str) -> object:
    """A number, a truth value, a text; None where there is nothing."""
    if text in ("", "True", "False"):
        return {"": None, "True": True, "False": False}[text]
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


def load(folder: Path, stem: str) -> Measured | None:
    """A CSV with the record beside it, None where either is missing."""
    table, record = folder / f"{stem}.csv", folder / f"{stem}.json"
    if not (table.exists() and record.exists()):
        return None
    with table.open(newline="", encoding="utf-8") as f:
        rows = [{key: _value(text) for key, text in row.items()} for row in csv.DictReader(f)]
    return Measured(rows, json.loads(record.read_text(encoding="utf-8")))


def _gpu(path: Path) -> Device:
    parts = json.loads(path.read_text(encoding="utf-8"))
    made = parts["machine"]
    figure, roof, scan = (Measured(parts.get(part, []), made) for part in ("figure", "bandwidth", "scan"))
    return Device(made["device"], figure, roof, scan)


def _cpus(folder: Path) -> Iterator[Device]:
    """One, or two where figure and roofline are of two machines."""
    found = {stem: measured for stem in ("figure", "roofline") if (measured := load(folder, stem))}
    for name in dict.fromkeys(measured.made["cpu"] for measured in found.values()):
        here = {stem: measured for stem, measured in found.items() if measured.made["cpu"] == name}
        none = Measured([], next(iter(here.values())).made)
        roof = here.get("roofline", none)
        parts = ([row for row in roof.rows if row.get(key) is not None] for key in ("what", "gate"))
        yield Device(name, here.get("figure", none), *(Measured(part, roof.made) for part in parts))


def devices(folder: Path) -> Iterator[Device]:
    """Every machine that has a part of the figure: this folder's CPUs, then each GPU."""
    yield from _cpus(folder)
    yield from map(_gpu, sorted(folder.glob("gpu_*.json")))


VERSIONS = ("torch", "triton", "cuda", "cudnn", "recurra")


def made_by(made: Row) -> str:
    """Machine, versions, day and command, in one sentence."""
    versions = ", ".join(f"{name} {made[name]}" for name in VERSIONS if made.get(name))
    kernels = f", kernels {made['native']}" if "cpu" in made else ""
    machine = made.get("device") or f"{made['cpu']}, threads: {made['threads']} of {made['cores']} cores"
    return f"{machine}{kernels}; {versions}; {made['date'][:10]}: `{made['command']}`"
