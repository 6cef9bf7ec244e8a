"""Laws of the tasks whose sequences are drawn, over the table: what is drawn, asked and counted."""

import doctest
import importlib
from pathlib import Path

import numpy as np
import pytest
import torch

from recurra.models import language_model
from recurra.models.cross_entropy import IGNORED
from recurra.tasks import sampled, selective_copying
from recurra.tasks.sampled import Sampled
from recurra.tasks.table import TASKS

CONTEXT = 20
DRAWN = [name for name in TASKS if name != "text"]


@pytest.fixture(params=DRAWN)
def task(request):
    return TASKS[request.param].load(Path())


def test_names_are_those_of_the_table(task):
    assert isinstance(task, Sampled)
    assert TASKS[task.name].load(Path()) is task


def test_batches_are_a_function_of_seed_and_step(task):
    def batches(seed, steps):
        feed = task.feed(3, CONTEXT, seed, carry=False)
        return {step: torch.stack(feed.batch(step)) for step in steps}

    first, again, other = batches(1, [0, 30, 3]), batches(1, [3, 0, 30]), batches(2, [0, 30, 3])
    assert all(first[step].equal(again[step]) for step in first)
    drawn = [*first.values(), *other.values()]
    assert not any(a.equal(b) for i, a in enumerate(drawn) for b in drawn[:i])
    assert task.feed(3, CONTEXT, 1, carry=False).fresh(1)


def test_tokens_and_targets_are_of_the_task(task):
    tokens, targets = task.feed(5, CONTEXT, 0, carry=False).batch(0)
    assert tokens.shape == targets.shape
    assert len(tokens) == 5
    assert tokens.dtype == targets.dtype == torch.int64
    assert 0 <= tokens.min() <= tokens.max() < task.size
    asked = targets[targets != IGNORED]
    assert len(asked) >= 5
    assert 0 <= asked.min() <= asked.max() < task.size


def test_what_is_held_out_is_not_trained_on(task):
    held_out = task._held_out(5, CONTEXT)[0]
    assert held_out.equal(task._held_out(5, CONTEXT)[0])
    for seed, step in ((0, 0), (1, 0), (0, 1), (1, 1)):
        assert not held_out.equal(task.feed(5, CONTEXT, seed, carry=False).batch(step)[0])


def test_worked_example(task):
    done = doctest.testmod(importlib.import_module(f"recurra.tasks.{task.name}"))
    assert done.attempted
    assert not done.failed


def test_what_the_task_has_not_is_named(task):
    with pytest.raises(ValueError, match=f"{task.name} draws its own sequences"):
        TASKS[task.name].prepare("a file", Path(), "byte", 0, None)
    with pytest.raises(ValueError, match=f"{task.name} draws its own sequences"):
        TASKS[task.name].read("a file", None)
    with pytest.raises(ValueError, match="carry"):
        task.feed(3, CONTEXT, 0, carry=True)


def test_the_score_is_counted_over_all_sequences(task, monkeypatch):
    model = language_model("mingru", task.size, 8, 1).eval()
    tokens, targets = task._held_out(7, CONTEXT)
    answers = model(tokens)[0].argmax(-1)
    asked = targets != IGNORED
    want = (answers == targets)[asked].double().mean().item()
    monkeypatch.setattr(sampled, "CHUNK", 3 * tokens.shape[1])
    assert task.score(model, CONTEXT, 7) == pytest.approx(want)
    loss = model.loss(tokens, targets)[0].item()
    assert task._judge(model, tokens, targets)[1] == pytest.approx(loss, rel=1e-5)
    assert task.better(0.5, 0.4)
    assert not task.better(0.4, 0.4)


def test_a_model_that_copies_is_right():
    """The data tokens in their order, where they are asked for."""

    def answers(tokens):
        data = [row[(row > 0) & (row < 15)] for row in tokens]
        logits = torch.zeros(*tokens.shape, 16)
        logits[:, -16:].scatter_(-1, torch.stack(data)[..., None], 1.0)
        return logits, None

    model = type("Copies", (), {"__call__": lambda _, tokens: answers(tokens)})()
    model.parameters = lambda: iter([torch.zeros(1)])
    assert selective_copying.TASK.score(model, 40, 9) == 1


def test_selective_copying_needs_room():
    with pytest.raises(ValueError, match="context must be at least 16"):
        selective_copying.TASK.feed(3, 15, 0, carry=False)


def test_places_and_data_are_drawn_alike():
    tokens, _ = selective_copying.sample(np.random.default_rng(0), 4000, 8, count=2)
    places = (tokens[:, :8] != 15).double().mean(0)
    assert (places - 0.25).abs().max() < 0.03
    data = tokens[:, :8][tokens[:, :8] != 15].bincount(minlength=16) / 8000
    assert data[0] == data[15] == 0
    assert (data[1:15] - 1 / 14).abs().max() < 0.015
