"""metrics.csv of a run, a row a step; and the loss curve."""

import csv
import importlib
import importlib.util
from pathlib import Path
from typing import Any

__all__ = ["Metrics", "draw", "rows", "unit"]


def unit(column: str) -> str:
    """A metric as people write it: bits/byte for bits_per_byte."""
    return column.replace("_per_", "/")


class Metrics:
    """Appends rows. Those of steps that a killed run made after its last checkpoint are dropped first."""

    def __init__(self, path: Path, columns: list[str], steps: int) -> None:
        kept = [row for row in rows(path) if int(row["step"]) <= steps]
        draft = path.with_name(path.name + ".part")
        with draft.open("w", newline="", encoding="utf-8") as f:
            writer = csv.DictWriter(f, columns, lineterminator="\n")
            writer.writeheader()
            writer.writerows(kept)
        draft.replace(path)
        self.file = path.open("a", newline="", encoding="utf-8")
        self.writer = csv.DictWriter(self.file, columns, lineterminator="\n")

    def add(self, row: dict[str, Any]) -> None:
        """Write a row at once."""
        self.writer.writerow(row)
        self.file.flush()

    def close(self) -> None:
        """End the file."""
        self.file.close()


def rows(path: Path) -> list[dict[str, str]]:
    """The whole rows of a metrics file, none where there is none; a row that a kill cut short is left out."""
    if not path.exists():
        return []
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines(keepends=True)
    whole = [line for line in lines if line.endswith("\n") and line.count(",") == lines[0].count(",")]
    return [row for row in csv.DictReader(whole) if row.get("step", "").isdigit()]


def draw(path: Path, metrics: list[dict[str, str]], columns: list[str]) -> None:
    """Write curves of some columns as PNG, where matplotlib is there; the last one has few points."""
    if not metrics or importlib.util.find_spec("matplotlib") is None:
        return
    figure = importlib.import_module("matplotlib.figure").Figure(figsize=(7, 4.5), layout="constrained")
    axes = figure.add_subplot()
    for column in columns:
        style = "o-" if column == columns[-1] else "-"
        points = [(int(row["step"]), float(row[column])) for row in metrics if row[column]]
        if points:
            axes.plot(*zip(*points, strict=True), style, linewidth=1, markersize=4, label=unit(column))
    axes.set_xlabel("step")
    axes.legend()
    figure.savefig(path, dpi=110)
