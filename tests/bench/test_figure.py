import json

import pytest
import torch

from recurra.bench import baselines, figure, memory
from recurra.bench.baselines import COLUMNS, COMPILED_CELL, COMPILED_LOOP, MAMBA, MINGRU, MINLSTM
from recurra.bench.figure import LAYERS, Place
from recurra.cli import speed

PLAIN = {name: build for name, build in LAYERS.items() if "compiled" not in name}
SMALL = Place(2, 4, 8, "fp32")
CELL, LOOP = f"GRU, {COMPILED_CELL}", f"GRU, {COMPILED_LOOP}"


@pytest.fixture
def tiny(monkeypatch):
    """Two rows of two and four steps; nothing is compiled."""
    for name, value in (("BATCH", 2), ("WIDTHS", (8, 16)), ("TIMES", (2, 4)), ("LAYERS", PLAIN)):
        monkeypatch.setattr(figure, name, value)
    monkeypatch.setattr(figure, "peak", lambda layer, place, threads: 1.5 * place.time)


def test_every_gru_and_lstm_says_which_it_is():
    names = [name.partition(", ") for name in LAYERS if name not in (MINGRU, MINLSTM, MAMBA)]
    assert {kind for kind, _, baseline in names if baseline} == {"GRU", "LSTM"}
    assert len(names) == 2 * 4


@pytest.mark.parametrize("name", PLAIN)
def test_a_step_makes_every_gradient(name):
    layer, (x, dy) = figure.build(name, SMALL), figure.draw(SMALL)
    baselines.training_step(layer, x, dy)()
    assert all(leaf.grad is None for leaf in (x, *layer.parameters()))


@pytest.mark.parametrize("compiled", [False, True])
def test_the_loop_is_the_library_layer(compiled, monkeypatch):
    """The same weights, the same numbers; what is compiled meets one layout, whatever T."""
    strides = set()
    monkeypatch.setattr(torch, "compile", lambda cell, dynamic: cell)
    loop, whole = baselines.CellLoop(torch.nn.LSTMCell, 8, compiled), torch.nn.LSTM(8, 8, batch_first=True)
    with torch.no_grad():
        for name, p in loop.cell.named_parameters():
            whole.get_parameter(f"{name}_l0").copy_(p)
    loop.cell.register_forward_pre_hook(lambda _, given: strides.add(given[0].stride()))
    for time in (2, 5):
        x = torch.randn(2, time, 8)
        torch.testing.assert_close(loop(x), whole(x)[0])
    assert len(strides) == (1 if compiled else 2)


def test_figure_leaves_csv_record_and_picture(tmp_path, tiny, read, capsys):
    pytest.importorskip("matplotlib")
    speed.figure("fp32,bf16", longest=4, limit=60, repeats=1, threads=1, out=tmp_path)
    rows = read(tmp_path / "figure.csv")
    assert tuple(rows[0]) == COLUMNS
    assert len(rows) == 2 * 2 * 2 * len(PLAIN)
    for row in rows:
        assert float(row["median_ms"]) > 0
        assert float(row["peak_mib"]) == 1.5 * int(row["time"])
        assert not row["skipped"]
        assert (float(row["over_recurra"]) == 1) == (row["layer"] in (MINGRU, MINLSTM))
    assert json.loads((tmp_path / "figure.json").read_text())["threads"] == 1
    assert (tmp_path / "figure.png").read_bytes().startswith(b"\x89PNG")
    assert "over_recurra" in capsys.readouterr().out


def test_what_would_take_too_long_or_too_much_is_not_run():
    last = {"time": 4, "median_ms": 1000.0, "peak_mib": 100.0}
    assert not figure.skipped(CELL, SMALL, None, 60, 1e6)
    assert not figure.skipped(CELL, Place(2, 16, 8, "fp32"), last, 4, 1e6)
    told = figure.skipped(CELL, Place(2, 64, 8, "fp32"), last, 4, 1e6)
    assert told == "about 16 s a call expected, at most 4 s allowed"
    assert "GiB expected" in figure.skipped(CELL, Place(2, 64, 8, "fp32"), last, 60, 1599)
    assert "GiB expected" in figure.skipped(MINGRU, Place(64, 2**16, 64, "fp32"), None, 60, 2000)
    assert "up to T = 32" in figure.skipped(LOOP, Place(2, 64, 8, "fp32"), None, 60, 1e6)
    assert "up to T = 4096" in figure.skipped(CELL, Place(2, 8192, 8, "fp32"), None, 60, 1e6)


def test_a_layer_that_cannot_run_says_why(tiny, monkeypatch):
    def broken(width):
        raise RuntimeError("no compiler\nand more")

    monkeypatch.setitem(PLAIN, CELL, broken)
    rows = figure.time_all([MINGRU, CELL], SMALL, 1, lambda _: None)
    assert rows[CELL] == {"skipped": "RuntimeError: no compiler"}
    assert rows[MINGRU]["median_ms"] > 0


def test_nothing_is_drawn_where_nothing_runs(tiny, monkeypatch):
    monkeypatch.setattr(figure, "available", lambda: 0.0)
    monkeypatch.setattr(figure, "draw", None)
    rows = next(figure.run(["fp32"], 4, 1, 60, 1, lambda _: None))
    assert {row["skipped"] for row in rows} == {"about 0 GiB expected, 0 GiB allowed"}


@pytest.mark.skipif(not memory.CLEAR.exists(), reason="peak memory is measured on Linux alone")
def test_memory_counts_input_and_output():
    """16 MiB each for the input, its gradient, the output and its gradient, twice that for the gates."""
    assert 64 < figure.peak(MINGRU, Place(64, 1024, 64, "fp32"), 1) < 256
