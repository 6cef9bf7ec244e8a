import json
import shutil
import subprocess
import sys

import pytest
import torch

from recurra.bench import layers, memory, plot
from recurra.bench.baselines import MINGRU, MINLSTM
from recurra.bench.contenders import CONTENDERS, absent, begin, draw_input
from recurra.bench.timing import PATIENCE
from recurra.cli import bench

PNG = b"\x89PNG\r\n\x1a\n"
PRESENT = [name for name in CONTENDERS if not absent(name)]


@pytest.mark.parametrize("name", PRESENT)
def test_a_pass_makes_fresh_gradients(name):
    run = begin(name, draw_input((2, 3, 4)))
    run()
    first = [leaf.grad for leaf in run.leaves]
    run()
    assert all(
        leaf.grad is not None and leaf.grad is not old for leaf, old in zip(run.leaves, first, strict=True)
    )
    assert all(torch.equal(leaf.grad, old) for leaf, old in zip(run.leaves, first, strict=True))


def test_layers_leave_csv_record_and_picture(tmp_path, monkeypatch, read, capsys):
    pytest.importorskip("matplotlib")
    monkeypatch.setattr(layers, "peak", lambda name, shape, threads: 1.5)
    bench.layers(["2,16,8", "1,600,4"], repeats=1, threads=1, out=tmp_path)
    rows = read(tmp_path / "layers.csv")
    assert [row["contender"] for row in rows] == [*CONTENDERS, layers.COPY] * 2
    timed = {row["contender"]: row for row in rows[: len(rows) // 2]}
    for name in PRESENT:
        assert float(timed[name]["median_ms"]) > 0
        assert float(timed[name]["over_gemms"]) > 0
    for name in (MINGRU, MINLSTM):
        assert float(timed[name]["over_recurra"]) == 1
        assert float(timed[name]["bound_ms"]) > 0
        assert float(timed[name]["peak_mib"]) == 1.5
    skipped = next(row for row in rows[len(rows) // 2 :] if row["contender"] == "GRUCell loop")
    assert "Python loop" in skipped["skipped"]
    assert not skipped["median_ms"]
    made = json.loads((tmp_path / "layers.json").read_text())
    assert {"cpu", "cores", "torch", "recurra", "native", "threads", "command", "date"} <= made.keys()
    assert made["threads"] == 1
    assert (tmp_path / "layers.png").read_bytes().startswith(PNG)
    printed = capsys.readouterr()
    assert "B = 1, T = 600, D = 4" in printed.out
    assert "warming up" in printed.err


def test_long_draws_time_and_memory_against_t(tmp_path, monkeypatch, read):
    pytest.importorskip("matplotlib")
    monkeypatch.setattr(layers, "LONG", ((1, 4, 8), (1, 16, 8)))
    monkeypatch.setattr(layers, "peak", lambda name, shape, threads: 1.0 * shape[1])
    bench.layers(long=True, repeats=1, threads=1, out=tmp_path)
    assert {row["time"] for row in read(tmp_path / "long.csv")} == {"4", "16"}
    assert (tmp_path / "long.png").read_bytes().startswith(PNG)


def test_default_shapes_are_the_published_ones():
    assert layers.SHAPES == ((16, 512, 256), (1, 4096, 256), (64, 512, 256), (8, 4096, 128), (64, 512, 64))
    assert [time for _, time, _ in layers.LONG] == [64, 256, 1024, 4096, 16384, 65536]


def test_a_contender_too_slow_for_the_next_shape_is_skipped():
    last = ((1, 1024, 256), PATIENCE * 1e3 / 4)
    assert not layers.skipped("nn.GRU", (1, 4096, 256), last)
    assert "s a run expected" in layers.skipped("nn.GRU", (1, 8192, 256), last)
    assert not layers.skipped("nn.GRU", (64, 512, 256), last)


def test_the_picture_needs_its_extra(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(RuntimeError, match=r"recurra\[bench\]"):
        plot.draw_shapes(tmp_path / "layers.png", [[]], "")
    bench.draw(tmp_path / "layers.png", [[]], "")
    assert 'recurra: no picture: matplotlib.figure is not installed: pip install "recurra[bench]"' in (
        capsys.readouterr().err
    )


@pytest.mark.skipif(not memory.CLEAR.exists(), reason="peak memory is measured on Linux alone")
def test_peak_memory_counts_the_pass_and_not_the_process():
    # The output takes 16 MiB, the gradient of the input 8; torch itself hundreds.
    assert 16 < memory.peak("its GEMMs (D -> 2D)", (64, 512, 64), 1) < 64


@pytest.mark.skipif(not memory.CLEAR.exists(), reason="peak memory is measured on Linux alone")
def test_a_failed_measurement_names_its_contender(monkeypatch):
    monkeypatch.setattr(sys, "executable", shutil.which("false"))
    with pytest.raises(RuntimeError, match=r"memory of nn\.GRU at \(1, 2, 3\) failed: exit code 1"):
        memory.peak("nn.GRU", (1, 2, 3), 1)


def test_peak_memory_is_none_where_the_system_does_not_tell(monkeypatch, tmp_path):
    monkeypatch.setattr(memory, "CLEAR", tmp_path / "absent")
    monkeypatch.setattr(subprocess, "run", None)
    assert memory.peak("nn.GRU", (1, 2, 3), 1) is None
