"""A run: it learns, it leaves what it should, and accumulation and carried state are what they say."""

import csv
import sys

import pytest
import torch

from recurra.models import SequenceModel
from recurra.train import checkpoint
from recurra.train.loop import fit, launch
from recurra.train.metrics import rows
from recurra.train.step import Stepper
from tools import close


def test_a_run_learns_and_leaves_its_files(text, small, model, tmp_path):
    config = small(steps=40, every=20)
    position = fit(model(config), text, config, tmp_path)
    with (tmp_path / "metrics.csv").open() as f:
        metrics = list(csv.DictReader(f))
    assert [int(row["step"]) for row in metrics] == list(range(1, 41))
    assert float(metrics[-1]["loss"]) < 0.9 * float(metrics[0]["loss"])
    assert [row["step"] for row in metrics if row["valid_bits_per_byte"]] == ["20", "40"]
    assert position.step == 40
    assert (tmp_path / "loss.png").stat().st_size > 0
    assert checkpoint.best(tmp_path).name == f"step-{position.best_step:08}"
    assert SequenceModel.from_pretrained(checkpoint.best(tmp_path)).vocabulary.size == 256


def test_the_best_and_the_newest_are_kept(text, small, model, tmp_path, monkeypatch):
    losses = iter([3.0, 1.0, 2.0, 2.5])
    monkeypatch.setattr(type(text), "score", lambda *_: next(losses))
    config = small(steps=8, every=2)
    fit(model(config), text, config, tmp_path)
    assert [p.name for p in checkpoint.steps(tmp_path)] == ["step-00000004", "step-00000008"]
    assert checkpoint.best(tmp_path).name == "step-00000004"


def test_time_bounds_a_run(text, small, model, tmp_path):
    config = small(steps=None, minutes=0.005)
    assert fit(model(config), text, config, tmp_path).seconds >= 0.3


@pytest.mark.parametrize(("until", "steps"), [(2.0, 4), (1.99, 6), (None, 8)])
def test_a_score_that_is_enough_ends_a_run(text, small, model, tmp_path, monkeypatch, until, steps):
    losses = iter([3.0, 2.0, 1.5, 2.5])
    monkeypatch.setattr(type(text), "score", lambda *_: next(losses))
    config = small(steps=8, every=2, until=until)
    assert fit(model(config), text, config, tmp_path).step == steps
    assert fit(model(config), text, config, tmp_path).step == steps  # with nothing left to do
    assert checkpoint.best(tmp_path).name == f"step-{min(steps, 6):08}"


def _stepped(config, text, model, steps=3):
    trained = model(config)
    stepper = Stepper(trained, text, config, launch(config))
    told = [stepper(step, 1e-2) for step in range(steps)]
    return torch.cat([p.detach().flatten() for p in trained.parameters()]), told


def test_smoothing_is_that_of_the_loss(text, small, model):
    config = small(smoothing=0.5)
    trained = model(config)
    tokens, targets = text.feed(config.batch, config.context, config.seed, False).batch(0)
    want, _ = trained.loss(tokens, targets, smoothing=0.5)
    plain, _ = trained.loss(tokens, targets)
    assert want.item() != pytest.approx(plain.item(), rel=1e-3)
    told, _ = Stepper(trained, text, config, launch(config))(0, 0.0)
    assert told == pytest.approx(want.item(), rel=1e-6)
    with pytest.raises(ValueError, match="smoothing must be less than 1"):
        small(smoothing=1.0)


@pytest.mark.parametrize(("smoothing", "told"), [(0.0, True), (0.1, False)])
def test_what_is_smoothed_is_not_measured(text, small, model, tmp_path, smoothing, told):
    config = small(smoothing=smoothing)
    fit(model(config), text, config, tmp_path)
    metrics = rows(tmp_path / "metrics.csv")
    assert [bool(row["bits_per_byte"]) for row in metrics] == [told] * 6
    assert [bool(row["valid_bits_per_byte"]) for row in metrics] == [False, False, True] * 2


@pytest.mark.parametrize("carry", [False, True])
def test_accumulation_is_a_larger_batch(text, small, model, carry):
    once, told = _stepped(small(batch=6, carry=carry), text, model)
    parts, told_parts = _stepped(small(batch=2, accumulate=3, carry=carry), text, model)
    close(torch.tensor(told_parts), torch.tensor(told), eps=1e3)
    close(parts, once, eps=1e4)  # Adam divides by gradients near zero


def test_the_carried_state_is_the_state_of_all_that_was_read(text, small, model):
    config = small(carry=True, batch=2, context=5, lr=0.0)
    trained = model(config)
    stepper = Stepper(trained, text, config, launch(config))
    for step in range(3):
        stepper(step, 0.0)
    starts = stepper.feed.order.starts(0)
    rows = torch.stack([torch.from_numpy(text.train[s : s + 15].astype(int)) for s in starts])
    _, state = trained.eval()(rows)
    for got, want in zip(stepper.carried[0], state, strict=True):
        close(got.layer.h, want.layer.h)
        close(got.conv.x, want.conv.x)


def test_a_gradient_that_is_not_finite_stops_the_run(text, small, model, tmp_path):
    config = small(lr=1e30, clip=0.0, warmup=0)
    with pytest.raises(RuntimeError, match="not finite: try a lower --lr"):
        fit(model(config), text, config, tmp_path)
    assert checkpoint.last(tmp_path).name == "step-00000000"


def test_data_of_another_task_is_named(text, small, model, tmp_path):
    config = small(task="selective_copying")
    with pytest.raises(ValueError, match="task is selective_copying, the data is text"):
        fit(model(config), text, config, tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_precision(text, small, model, tmp_path, precision):
    config, mixed = small(precision=precision), set()
    trained = model(config)
    trained.blocks[0].register_forward_hook(lambda *_: mixed.add(torch.is_autocast_enabled("cpu")))
    fit(trained, text, config, tmp_path)
    assert mixed == {precision == "bf16-mixed"}
    saved = SequenceModel.from_pretrained(checkpoint.last(tmp_path))
    assert {p.dtype for p in saved.parameters()} == {torch.float32}


def test_tensorboard(text, small, model, tmp_path):
    config = small(tensorboard=True, steps=2)
    fit(model(config), text, config, tmp_path)
    assert list((tmp_path / "tensorboard").iterdir())


def test_without_tensorboard_its_extra_is_named(text, small, model, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    config = small(tensorboard=True, steps=2)
    with pytest.raises(RuntimeError, match=r"recurra\[tensorboard\]"):
        fit(model(config), text, config, tmp_path)
