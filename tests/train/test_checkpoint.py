"""A checkpoint gives back what it was given, or an error that names it; a save that fails harms none."""

import random
import shutil

import pytest
import torch

from recurra.train import checkpoint
from recurra.train.average import Average
from recurra.train.checkpoint import Position
from recurra.train.loop import launch
from recurra.train.step import Stepper
from tools import mutated


@pytest.fixture
def stepped(text, small, model):
    """A stepper after two steps, its states carried."""
    config = small(width=4, depth=1, carry=True)
    stepper = Stepper(model(config), text, config, launch(config))
    for step in range(2):
        stepper(step, 1e-2)
    return stepper


def _save(run, stepper, text, step, **best):
    run.mkdir(exist_ok=True)
    where = Position(step, 1.5, **best)
    average = Average(stepper.plain, 2)
    average.take()
    checkpoint.save(run, where, *stepper.whole(), average.tensors(), stepper.config, text.vocabulary)
    return where


def _tensors(stepper):
    state = stepper.moments.state
    moments = [state[p][key] for p in stepper.plain.parameters() for key in sorted(state[p])]
    carried = [part for block in stepper.carried[0] for part in (block.conv.x, block.layer.h)]
    return [*stepper.plain.parameters(), *moments, *carried]


def _read(folder, text, config, model):
    stepper = Stepper(model(config), text, config, launch(config))
    checkpoint.weights(folder, stepper.plain)
    stepper.restore(checkpoint.load(folder, stepper.plain, stepper.moments))
    return stepper


def test_all_comes_back(stepped, text, model, tmp_path):
    where = _save(tmp_path, stepped, text, 2)
    folder = checkpoint.last(tmp_path)
    assert checkpoint.position(folder) == where
    assert checkpoint.options(folder) == stepped.config
    again = _read(folder, text, stepped.config, model)
    assert all(map(torch.equal, _tensors(again), _tensors(stepped)))


def test_newest_and_best_are_kept(stepped, text, tmp_path):
    _save(tmp_path, stepped, text, 0)
    assert checkpoint.best(tmp_path).name == "step-00000000"
    _save(tmp_path, stepped, text, 2, best_step=2, best_score=1.0)
    _save(tmp_path, stepped, text, 4, best_step=2, best_score=1.0)
    _save(tmp_path, stepped, text, 6, best_step=2, best_score=1.0)
    assert [p.name for p in sorted(tmp_path.iterdir())] == ["step-00000002", "step-00000006"]
    assert checkpoint.last(tmp_path).name == "step-00000006"
    assert checkpoint.best(tmp_path).name == "step-00000002"


@pytest.mark.parametrize("at", ["states.save", "_write_json", "_sync", "save_file"])
def test_a_save_that_fails_harms_none(stepped, text, tmp_path, monkeypatch, at):
    def fail(*_):
        raise OSError("no space left")

    _save(tmp_path, stepped, text, 2)
    monkeypatch.setattr(f"recurra.train.checkpoint.{at}", fail)
    with pytest.raises(OSError, match="no space left") as fault:
        _save(tmp_path, stepped, text, 4)
    assert str(tmp_path) in str(fault.value)
    assert [p.name for p in tmp_path.iterdir()] == ["step-00000002"]


def _mutate(folder, draw):
    """Change one file of a checkpoint, or drop it."""
    path = draw.choice(sorted(folder.iterdir()))
    if draw.randrange(8):
        path.write_bytes(mutated(path.read_bytes(), draw))
    else:
        path.unlink()


@pytest.mark.parametrize("count", [150, pytest.param(4000, marks=pytest.mark.slow)])
def test_mutated_checkpoints_are_named_or_read_alike(stepped, text, model, tmp_path, count):
    _save(tmp_path / "run", stepped, text, 2)
    whole, draw, told = checkpoint.last(tmp_path / "run"), random.Random(0), []
    folder = tmp_path / "mutated"
    fresh = Stepper(model(stepped.config), text, stepped.config, launch(stepped.config))
    for _ in range(count):
        shutil.copytree(whole, folder)
        _mutate(folder, draw)
        try:
            assert checkpoint.options(folder) == stepped.config
            assert checkpoint.position(folder) == checkpoint.position(whole)
            checkpoint.weights(folder, fresh.plain)
            fresh.restore(checkpoint.load(folder, fresh.plain, fresh.moments))
            assert all(map(torch.equal, _tensors(fresh), _tensors(stepped)))
        except (ValueError, FileNotFoundError) as e:
            told.append(str(e))
        shutil.rmtree(folder)
    assert len(told) > 0.9 * count
    assert all(str(folder) in message for message in told)
