"""`benchmarks/gpu.py` at toy sizes on a CPU: that every row is there and what it holds, never how fast."""

import csv
import json
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch

from recurra.blocks.table import BLOCKS

SCRIPTS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture(autouse=True)
def gpu(monkeypatch):
    """The script; its parts are siblings of it, and time three calls of each."""
    monkeypatch.syspath_prepend(str(SCRIPTS))
    timing = __import__("gpu_timing")
    monkeypatch.setattr(timing, "MOST", 3)
    monkeypatch.setattr(timing, "_end", float("inf"))
    return __import__("gpu")


@pytest.fixture
def kernels(gpu):
    return gpu.kernels


@pytest.fixture
def run(kernels):
    """Rows of all kernels and their peers."""
    return lambda: list(kernels.run_kernels(True, kernels.floor([{"gb_per_s": 10.0}], True)))


@pytest.fixture
def fake(kernels, monkeypatch):
    """The only peer: another package's h = a h + b, as a function of both."""

    def install(scan, name="fake_scans"):
        module = ModuleType(name)
        module.scan = scan
        module.__spec__ = object()
        monkeypatch.setitem(sys.modules, name, module)
        peer = kernels.peers.Peer("linear", name, "scan", lambda a, b, h_0: [a, b], lambda f, *xs: f(*xs))
        monkeypatch.setattr(kernels.peers, "PEERS", {"fake": peer})
        monkeypatch.setattr(kernels, "KERNELS", ("linear",))

    return install


def loop(a, b):
    """The recurrence, from zero."""
    h, found = torch.zeros_like(b[:, 0]), []
    for t in range(b.shape[1]):
        h = a[:, t] * h + b[:, t]
        found.append(h)
    return torch.stack(found, 1)


def test_every_block_trains_and_writes(gpu):
    rows = list(gpu.models.run(True))
    assert not [row for row in rows if "skipped" in row]
    assert {(row["model"], row["work"], row["precision"], row["batch"]) for row in rows} == {
        (name, *rest)
        for name in BLOCKS
        for rest in (
            ("training step", "fp32", 2),
            ("training step", "bf16 autocast", 2),
            ("generation", "fp32", 1),
            ("generation", "fp32", 2),
        )
    }
    for row in rows:
        assert row["tokens_per_s"] > 0
        assert row["parameters"] > 0


def test_every_kernel_has_its_rows_and_every_missing_peer_one(kernels, run, monkeypatch):
    monkeypatch.setattr(kernels.peers, "installed", lambda name: False)
    rows = run()
    ours = [row for row in rows if row["by"] == kernels.OURS]
    assert {(row["kernel"], row["dtype"], row["work"]) for row in ours} == {
        (kernel, dtype, work)
        for kernel in kernels.KERNELS
        for dtype in ("fp32", "bf16")
        for work in (kernels.FORWARD, kernels.BOTH)
    }
    for row in ours:
        assert row["of_copy"] > 0
        assert ("us_per_step" in row) == (row["kernel"] in kernels.CELLS)
    assert [row for row in rows if row["by"] != kernels.OURS] == [
        {"kernel": peer.kernel, "by": name, "skipped": "not installed"}
        for name, peer in kernels.peers.PEERS.items()
    ]


def test_every_kernel_of_the_correctness_part_is_timed(gpu, kernels):
    names = {case[0] for case in gpu.correctness.cases(toy=True)}
    assert set(kernels.KERNELS) == names - set(kernels.gated.FUSIONS)
    assert {peer.kernel for peer in kernels.peers.PEERS.values()} <= set(kernels.KERNELS)


def test_a_peer_is_compared_and_timed(fake, run, kernels):
    fake(loop)
    theirs = [row for row in run() if row["by"] == "fake"]
    assert len(theirs) == 4
    for row in theirs:
        assert row["difference"] < (1e-5 if row["dtype"] == "fp32" else kernels.peers.ALIKE)
        assert row["over_recurra"] > 0


def test_a_wrong_peer_is_seen_and_one_that_fails_says_why(fake, run):
    fake(lambda a, b: 1.1 * loop(a, b))
    wrong = [row for row in run() if row["by"] == "fake"]
    assert all("another result than ours: it differs by" in row["skipped"] for row in wrong)
    fake(lambda a, b: loop(a, c))  # noqa: F821
    assert run()[-1]["skipped"] == "NameError: name 'c' is not defined"


def test_what_there_is_no_time_for_says_so(gpu, run):
    sys.modules["gpu_timing"].begin(0)
    late = [*gpu.models.run(True), *gpu.figure.run(True), *(row for row in run() if "dtype" in row)]
    assert {row["skipped"] for row in late} <= {"no time was left for it", "no CUDA graphs on a CPU"}
    assert all(row["skipped"] for row in late)


def test_a_case_is_right_and_one_that_did_not_run_has_a_row(gpu, monkeypatch):
    first, *_, last = gpu.correctness.cases(toy=True)
    monkeypatch.setattr(gpu.correctness, "cases", lambda toy: [first, last])
    done = map(gpu.correctness.correctness, [last])
    monkeypatch.setattr(gpu.correctness, "in_processes", lambda every: done)
    sys.modules["gpu_timing"].begin(0)
    right, missing = gpu.correctness.run(False)
    assert right["gate"] == last[0]
    assert right["right"]
    assert (missing["gate"], missing["skipped"]) == (first[0], "no time was left for it")


def test_the_script_leaves_json_and_csv(gpu, tmp_path, monkeypatch, capsys, fake):
    fake(loop)
    monkeypatch.setattr(gpu.figure, "LAYERS", dict(list(gpu.figure.LAYERS.items())[:1]))
    monkeypatch.setattr(sys, "argv", ["gpu.py", "--kernels", "--figure", "--toy", "--out", str(tmp_path)])
    gpu.main()
    parts = json.loads((tmp_path / "gpu_cpu.json").read_text())
    assert list(parts) == ["machine", "bandwidth", "kernels", "figure"]
    assert parts["machine"]["command"].endswith("--kernels --figure --toy --out " + str(tmp_path))
    with (tmp_path / "gpu_cpu_kernels.csv").open(newline="") as f:
        assert [row["by"] for row in csv.DictReader(f)] == ["recurra"] * 4 + ["fake"] * 4
    assert all(row["over_recurra"] == 1 for row in parts["figure"] if not row["graph"])
    assert "of copy bandwidth, and those of other packages" in capsys.readouterr().out
