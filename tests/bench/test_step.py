import json

import pytest

from recurra.bench import step
from recurra.cli import bench


@pytest.mark.parametrize("size", [8, 44, 4096])
def test_every_reader_runs(size):
    for read in step.readers(size).values():
        read()


def test_step_leaves_csv_and_record(tmp_path, monkeypatch, read, capsys):
    monkeypatch.setattr(step, "WIDTH", 16)
    bench.step(repeats=1, out=tmp_path)
    rows = read(tmp_path / "step.csv")
    assert [row["width"] for row in rows] == ["16"] * 12 + ["32"] * 12
    assert rows[0]["contender"] == "MinGRULayer.step"
    assert rows[0]["weight_bytes"] == str(4 * (2 * 16 * 16 + 2 * 16))
    assert rows[1]["contender"].startswith("read: ")
    assert float(rows[1]["over_read"]) == 1
    assert json.loads((tmp_path / "step.json").read_text())["threads"] == 1
    assert "recurra.MinGRU.step" in capsys.readouterr().out
