"""A run that is stopped anywhere and goes on has, bit for bit, the losses of one that was not."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from recurra.tasks.table import TASKS, parse
from recurra.train import checkpoint
from recurra.train.loop import fit
from recurra.train.report import Report


class StoppedError(Exception):
    pass


@pytest.fixture
def stop_at(monkeypatch):
    """Raise once, when a step is told."""
    add = Report.add

    def set_up(step):
        def told(self, row, left):
            add(self, row, left)
            if row["step"] == step:
                monkeypatch.setattr(Report, "add", add)
                raise StoppedError

        monkeypatch.setattr(Report, "add", told)

    return set_up


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"carry": True, "batch": 2},
        {"dropout": 0.2, "accumulate": 2},
        {"precision": "bf16-mixed"},
        {"precision": "64-true"},
        {"average": 2, "every": 2},
    ],
    ids=str,
)
@pytest.mark.parametrize("step", [1, 3, 5])
def test_after_an_exception(text, small, model, losses, stop_at, tmp_path, options, step):
    config = small(**options)
    fit(model(config), text, config, tmp_path / "unbroken")
    stop_at(step)
    with pytest.raises(StoppedError):
        fit(model(config), text, config, tmp_path / "broken")
    fit(model(small(seed=9, dropout=config.dropout)), text, config, tmp_path / "broken")
    assert losses(tmp_path / "broken") == losses(tmp_path / "unbroken")
    ends = (checkpoint.last(tmp_path / name) / "model.safetensors" for name in ("broken", "unbroken"))
    assert len({end.read_bytes() for end in ends}) == 1


@pytest.mark.parametrize("other", [1, 2, 5])
def test_with_a_mean_over_another_number(text, small, model, losses, stop_at, tmp_path, monkeypatch, other):
    monkeypatch.setattr("recurra.train.loop.SAVE_SECONDS", 0.0)  # each step leaves a checkpoint
    config = small(average=3, every=2)
    fit(model(config), text, config, tmp_path / "unbroken")
    stop_at(5)
    with pytest.raises(StoppedError):
        fit(model(config), text, config, tmp_path / "broken")
    fit(model(small(seed=9)), text, replace(config, average=other), tmp_path / "broken")
    trained = [[row[:-1] for row in losses(tmp_path / name)] for name in ("broken", "unbroken")]
    assert trained[0] == trained[1]


@pytest.mark.parametrize("task", [name for name in TASKS if name != "text"])
def test_of_every_task(small, model, losses, stop_at, tmp_path, task):
    config = small(task=task, context=24, steps=3, every=2)
    source = tmp_path / "pairs.tsv"
    source.write_text("".join(f"{i}\t{i + 1}\n" for i in range(120)))
    data = parse(task).prepare(str(source) if task == "translation" else None, tmp_path, "byte", 0, None)
    kind = data.size, data.channels
    fit(model(config, *kind), data, config, tmp_path / "unbroken")
    stop_at(1)
    with pytest.raises(StoppedError):
        fit(model(config, *kind), data, config, tmp_path / "broken")
    fit(model(small(seed=9, task=task), *kind), data, config, tmp_path / "broken")
    assert losses(tmp_path / "broken") == losses(tmp_path / "unbroken")


def test_a_finished_run_has_nothing_to_do(text, small, model, losses, tmp_path):
    config = small()
    fit(model(config), text, config, tmp_path)
    before = losses(tmp_path)
    assert fit(model(config), text, config, tmp_path).step == 6
    assert losses(tmp_path) == before


def test_a_row_that_a_kill_cut_short_is_dropped(text, small, model, losses, tmp_path):
    config = small()
    fit(model(config), text, config, tmp_path / "unbroken")
    fit(model(config), text, small(steps=3), tmp_path / "broken")
    for folder in checkpoint.steps(tmp_path / "broken"):
        assert checkpoint.options(folder).steps == 3
    with (tmp_path / "broken" / "metrics.csv").open("a") as f:
        f.write("4,1.5,2,3,4,5,6,\n5,1.")
    fit(model(config), text, config, tmp_path / "broken")
    assert [row[0] for row in losses(tmp_path / "broken")] == list("123456")


def _killed(tmp_path, kills, steps):
    script = Path(__file__).with_name("killing.py")
    command = [sys.executable, str(script), str(tmp_path), str(kills), str(steps)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=500)
    assert not done.returncode, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize(
    ("kills", "steps"), [(3, 150), pytest.param(24, 1200, marks=pytest.mark.slow)], ids=["3", "24"]
)
def test_after_sigkill(tmp_path, losses, kills, steps):
    assert _killed(tmp_path, kills, steps)["kills"] == kills
    assert len(losses(tmp_path / "killed")) == steps
    assert losses(tmp_path / "killed") == losses(tmp_path / "unbroken")
    assert not list((tmp_path / "killed").glob(".draft-*"))
