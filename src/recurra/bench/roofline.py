"""The roofline of minGRU and minLSTM: operations a byte, what the machine allows there, what was reached.

A layer's products take 6 p D^2 operations a step and row, p = 2 parts for minGRU and 3 for minLSTM. Between
its two products and its recurrence, forward and backward, the numbers that must be read and written are
6 p + 6 a channel. Weights count nothing beside them.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from recurra.bench.baselines import DTYPES, MINGRU, MINLSTM
from recurra.bench.report import Row
from recurra.bench.results import Device

__all__ = ["Point", "Roof", "roofs"]

PARTS = {MINGRU: 2, MINLSTM: 3}


class Point(NamedTuple):
    """A layer at one shape: operations a byte that it must touch, and operations a second."""

    layer: str
    width: int
    time: int
    intensity: float
    tflop_per_s: float


class Roof(NamedTuple):
    """What a machine gives in one dtype, and the layers below."""

    dtype: str
    gb_per_s: float
    tflop_per_s: float
    points: Sequence[Point]

    def allowed(self, intensity: float) -> float:
        """TFLOP/s that memory or matrix products allow."""
        return min(self.tflop_per_s, intensity * self.gb_per_s / 1e3)


def _point(row: Row) -> Point:
    parts, width = PARTS[row["layer"]], row["width"]
    numbers = row["batch"] * row["time"] * width
    operations = 6 * parts * width * numbers
    touched = (6 * parts + 6) * numbers * DTYPES[row["dtype"]].itemsize
    rate = operations / row["median_ms"] / 1e9
    return Point(row["layer"], width, row["time"], operations / touched, rate)


def roofs(device: Device) -> Iterator[Roof]:
    """One a dtype in which both roof and layers were measured; with CUDA graphs where there are any."""
    copies = [row["gb_per_s"] for row in device.roof.rows if row.get("gb_per_s")]
    rows = [row for row in device.figure.rows if row["layer"] in PARTS and row.get("median_ms")]
    graph = any(row["graph"] for row in rows)
    for dtype in dict.fromkeys(row["dtype"] for row in rows):
        rates = [row["tflop_per_s"] for row in device.roof.of(dtype=dtype) if row.get("tflop_per_s")]
        points = [_point(row) for row in rows if (row["dtype"], row["graph"]) == (dtype, graph)]
        if copies and rates:
            yield Roof(dtype, max(copies), max(rates), points)
