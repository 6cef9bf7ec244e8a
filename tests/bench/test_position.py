import json

import pytest

from recurra.bench import position
from recurra.bench.generate import Size
from recurra.cli import speed
from recurra.models import language_model


def test_positions_are_in_ones_twos_and_fives():
    assert list(position.positions(100)) == [10, 20, 50, 100]
    assert list(position.positions(250_000))[-2:] == [100_000, 200_000]


def test_a_state_holds_as_many_tokens_as_were_read():
    """That of attention tells: keys and values of every token up to the last one written."""
    model = language_model("transformer", width=32, depth=1).eval()
    rows = list(position.along(model, 50))
    assert [(row["position"], row["tokens"]) for row in rows] == [(10, 8), (20, 18), (50, 48)]
    read = [row["position"] + row["tokens"] + 1 for row in rows]
    held = [(row["state_mib"] * 2**20 - 8) / (2 * 32 * 4) for row in rows]
    assert held == read


def test_position_leaves_csv_record_and_picture(tmp_path, monkeypatch, read):
    pytest.importorskip("matplotlib")
    monkeypatch.setattr(speed, "ten_million", lambda model: Size(model, 16, 1))
    speed.position("mingru", last=20, out=tmp_path)
    rows = read(tmp_path / "position.csv")
    assert [(row["model"], row["position"]) for row in rows] == [("mingru", "10"), ("mingru", "20")]
    assert rows[0]["state_mib"] == rows[1]["state_mib"]
    assert all(float(row["median_us"]) > 0 for row in rows)
    assert json.loads((tmp_path / "position.json").read_text())["threads"] == 1
    assert (tmp_path / "position.png").read_bytes().startswith(b"\x89PNG")
