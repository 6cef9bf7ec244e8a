import json

import pytest
import torch

from recurra.bench import generate
from recurra.bench.generate import Size
from recurra.blocks.table import BLOCKS
from recurra.cli import bench
from recurra.models import language_model


@pytest.fixture
def model():
    return language_model("mingru", width=8, depth=1).eval()


def test_a_text_is_timed_at_powers_of_ten(model, monkeypatch):
    """Each token once, in order: `next` counts them."""
    written = []
    stream = generate.stream

    def counted(*words):
        for token in stream(*words):
            written.append(token)
            yield token

    monkeypatch.setattr(generate, "stream", counted)
    ends = [(row["at_token"], row["tokens"], len(written)) for row in generate.along(model, 100)]
    assert ends == [(1, 9, 9), (10, 90, 99), (100, 100, 199)]


def test_writing_is_timed_beside_reading(model):
    row = generate.beside_reading(model, rounds=2)
    assert row["tokens"] == 2 * generate.BLOCK
    assert row["p99_us"] >= row["median_us"] > 0
    assert row["over_read"] == row["median_us"] / row["read_us"]


def test_generate_leaves_csv_record_and_picture(tmp_path, monkeypatch, read, capsys):
    pytest.importorskip("matplotlib")
    threads = torch.get_num_threads()
    monkeypatch.setattr(generate, "ten_million", lambda model: Size(model, 8, 2))
    bench.generate("minlstm", last=10, rounds=1, out=tmp_path)
    rows = read(tmp_path / "generate.csv")
    assert [row["at_token"] for row in rows] == ["", "", "", "1", "10"] * 2
    assert [row["weights"] for row in rows] == ["fp32", "bf16", "int8", "fp32", "fp32"] * 2
    assert [row["model"] for row in rows] == ["minlstm"] * 5 + ["mingru"] * 5
    assert float(rows[0]["over_read"]) > 0
    assert rows[5]["parameters"] == rows[7]["parameters"]
    assert (
        int(rows[5]["weight_bytes"]) > 1.9 * int(rows[6]["weight_bytes"]) > 3.4 * int(rows[7]["weight_bytes"])
    )
    assert int(rows[5]["parameters"]) <= 1_500_000
    assert json.loads((tmp_path / "generate.json").read_text())["threads"] == 1
    assert (tmp_path / "generate.png").read_bytes().startswith(b"\x89PNG")
    assert "resident_mib" in capsys.readouterr().out
    assert torch.get_num_threads() == threads


@pytest.mark.parametrize("name", BLOCKS)
def test_the_large_models_have_ten_million_parameters(name):
    size = generate.ten_million(name)
    with torch.device("meta"):
        made = language_model(size.model, width=size.width, depth=size.depth)
    assert 8.8e6 < sum(p.numel() for p in made.parameters()) < 11.2e6
