import json

import pytest

from recurra.bench import baselines, limits
from recurra.bench.results import Device, Measured
from recurra.bench.roofline import roofs
from recurra.cli import speed


@pytest.fixture
def tiny(monkeypatch):
    for name, value in (("COPIED", 2**12), ("SIDE", 8), ("SHAPE", (2, 4, 8))):
        monkeypatch.setattr(limits, name, value)


def test_roofline_leaves_csv_and_record(tmp_path, tiny, read, capsys):
    speed.roofline(repeats=1, threads=1, out=tmp_path)
    rows = read(tmp_path / "roofline.csv")
    copy, *rest = rows
    assert float(copy["gb_per_s"]) == pytest.approx(2 * 2**12 / float(copy["median_ms"]) / 1e6)
    assert [row["dtype"] for row in rest] == ["fp32"] * 6 + ["bf16"] * 6
    for row in rest:
        assert bool(row["tflop_per_s"]) == bool(row["what"]) != bool(row["of_copy"])
    # minGRU: two parts read and h written; backward those, its gradient, and that of two parts.
    forward, both = (row for row in rest if row["gate"] == "mingru_positive" and row["dtype"] == "fp32")
    for row, numbers in ((forward, 3), (both, 9)):
        size = 4 * 64 * numbers
        assert float(row["gb_per_s"]) == pytest.approx(size / float(row["median_ms"]) / 1e6)
    assert json.loads((tmp_path / "roofline.json").read_text())["threads"] == 1
    assert "of_copy" in capsys.readouterr().out


def test_a_roof_is_the_lower_of_memory_and_products():
    """One millisecond of minGRU at D = 64: 12 D^2 operations a step, 18 D numbers of four bytes."""
    layer = {"batch": 2, "time": 8, "width": 64, "dtype": "fp32", "graph": False, "median_ms": 1.0}
    rows = [
        {"what": "copy", "dtype": "fp32", "gb_per_s": 100.0},
        {"what": "a", "dtype": "fp32", "tflop_per_s": 1.0},
        {"what": "b", "dtype": "fp32", "tflop_per_s": 2.0},
    ]
    figure = Measured([{"layer": baselines.MINGRU, **layer}], {})
    (roof,) = roofs(Device("x", figure, Measured(rows, {}), Measured([], {})))
    (point,) = roof.points
    assert point.intensity == pytest.approx(12 * 64**2 / (18 * 64 * 4))
    assert point.tflop_per_s == pytest.approx(16 * 12 * 64**2 / 1e9)
    assert roof.allowed(10) == pytest.approx(1.0)
    assert roof.allowed(1000) == 2.0
