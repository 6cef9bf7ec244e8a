"""The demo as a person runs it, for a second: both runs, their table, the text; stopped, it goes on."""

import re

import pytest
import torch

from recurra.bench.language import build
from recurra.cli import demo
from recurra.tasks import sources, text
from recurra.train import TrainConfig, checkpoint
from recurra.train.loop import _Loop


@pytest.fixture(autouse=True)
def _small(monkeypatch, tmp_path):
    """A short text in the place of Python's own, and few windows to evaluate on."""
    source = tmp_path / "source.py"
    source.write_text("".join(f"def f{i}(x):\n    return x + {i * i}\n" for i in range(2000)))
    monkeypatch.setattr(text, "find", lambda _: sources.Source("Python's library", [source]))
    monkeypatch.setattr(demo, "PLAN", {**demo.PLAN, "windows": 2})
    monkeypatch.setattr(demo, "WINDOWS", 4)


@pytest.fixture
def run(command, tmp_path):
    """The demo in a folder: exit code, what it printed, what it complained."""
    return lambda: command("demo", "--minutes", "0.01", "--out", tmp_path / "demo")


def steps(folder):
    return checkpoint.position(checkpoint.last(folder)).step


def test_both_train_and_mingru_writes(run, tmp_path):
    code, out, err = run()
    assert code == 0, err
    lines = [[cell.strip() for cell in line.split("|")[1:-1]] for line in out.splitlines() if line[:1] == "|"]
    assert lines[0] == list(demo.COLUMNS)
    table = {line[0]: line[1:] for line in lines[2:]}
    assert list(table) == list(demo.NAMES.values())
    for name, (size, made, speed, bits) in table.items():
        assert 0 < int(size.replace(",", "")) <= 1_500_000
        assert int(speed.replace(",", "")) > 0
        if name != demo.NAMES["nn.GRU"]:
            assert int(made.replace(",", "")) > 0
            assert 0 < float(bits) < 9
    assert f"\n{demo.PROMPT}" in out
    assert re.search(rf"^{demo.TOKENS} tokens, [\d,]+ tokens/s$", err, re.MULTILINE)
    finished = [steps(tmp_path / "demo" / name) for name in demo.RUNS]
    assert run()[0] == 0  # it has nothing left to train
    assert [steps(tmp_path / "demo" / name) for name in demo.RUNS] == finished


def test_a_stopped_demo_goes_on(run, tmp_path, monkeypatch):
    def interrupted(*_):
        raise KeyboardInterrupt

    first, second = (tmp_path / "demo" / name for name in demo.RUNS)
    advance, calls = _Loop.advance, []

    def stop_in_the_second(self):
        calls.append(self.out)
        (interrupted if self.out == second else advance)(self)

    monkeypatch.setattr(_Loop, "advance", stop_in_the_second)
    code, _, err = run()
    assert code == 130
    assert "goes on" in err
    assert calls[-1] == second
    kept = steps(first)
    monkeypatch.setattr(_Loop, "advance", advance)
    assert run()[0] == 0
    assert steps(first) == kept
    assert steps(second) > 0


def test_the_models_are_of_one_size():
    """Equal parameters within a per cent, and torch.nn's GRU just those of ours."""
    sizes = []
    with torch.device("meta"):
        for name in ("mingru", "gru", "nn.GRU"):
            options = demo.RUNS.get(name, demo.RUNS["gru"])
            model = build(TrainConfig(**{**demo.PLAN, **options, "model": name}))
            sizes.append(sum(p.numel() for p in model.parameters()))
    assert abs(sizes[1] / sizes[0] - 1) < 0.01
    assert sizes[2] == sizes[1]
