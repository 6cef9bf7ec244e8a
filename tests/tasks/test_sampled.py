"""Laws of the tasks whose sequences are drawn, over the table: what is drawn, asked and counted."""

import doctest
import importlib
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils._pytree import tree_leaves

from recurra.models import Pair, encoder_decoder, language_model
from recurra.tasks import answers
from recurra.tasks.adding import Adding
from recurra.tasks.answers import asked, judge
from recurra.tasks.sampled import TEST, VALIDATION, Sampled
from recurra.tasks.selective_copying import SelectiveCopying
from recurra.tasks.table import TASKS, parse

CONTEXT = 20
DRAWN = [name for name, kind in TASKS.items() if issubclass(kind, Sampled)]


# Where the options that a task has by itself would take long.
SMALL = {"mqar": "mqar:size=64"}


@pytest.fixture(params=DRAWN)
def task(request):
    return parse(SMALL.get(request.param, request.param)).load(Path())


def _batch(task, rows, seed=0, step=0):
    return task.feed(rows, CONTEXT, seed, carry=False).batch(step)


def test_names_are_those_of_the_table(task):
    assert type(task) is TASKS[task.name]
    assert parse(task.name).name == task.name


def test_batches_are_a_function_of_seed_and_step(task):
    def batches(seed, steps):
        return {step: _batch(task, 9, seed, step) for step in steps}

    first, again, other = batches(1, [0, 30, 3]), batches(1, [3, 0, 30]), batches(2, [0, 30, 3])
    assert all(_same(first[step], again[step]) for step in first)
    drawn = [*first.values(), *other.values()]
    assert not any(_same(a, b) for i, a in enumerate(drawn) for b in drawn[:i])
    assert task.feed(3, CONTEXT, 1, carry=False).fresh(1)


def _same(one, other):
    pairs = zip(tree_leaves(one), tree_leaves(other), strict=True)
    return all(a.nan_to_num(-1).equal(b.nan_to_num(-1)) for a, b in pairs)


def _model(task):
    if task.paired:
        return encoder_decoder("mingru", "mingru", task.size, 8, 1).eval()
    return language_model("mingru", task.size, 8, 1, channels=task.channels).eval()


def test_inputs_and_targets_are_of_the_task(task):
    inputs, targets = _batch(task, 5)
    if task.paired:
        assert inputs.lengths.tolist() == [inputs.source.shape[1]] * 5
        assert not inputs.source[:, [0, -1]].any()
        assert 0 < inputs.source[:, 1:-1].min() <= inputs.source.max() < task.size
        assert inputs.target[:, 1:].equal(targets[:, :-1])
        assert not inputs.target[:, 0].any()
        assert not targets[:, -1].any()
        inputs = inputs.target
    assert targets.shape == inputs.shape[:2]
    assert len(inputs) == 5
    if task.channels:
        assert inputs.shape[2:] == (task.channels,)
        assert inputs.dtype == torch.float32
    else:
        assert inputs.shape == targets.shape
        assert inputs.dtype == torch.int64
        assert 0 <= inputs.min() <= inputs.max() < task.size
    answers = targets[asked(targets)]
    assert len(answers) >= 5
    if targets.is_floating_point():
        assert task.size == 1
        assert targets.dtype == torch.float32
    else:
        assert targets.dtype == torch.int64
        assert 0 <= answers.min() <= answers.max() < task.size


def test_what_is_held_out_is_not_trained_on(task):
    def held_out(kind):
        return next(task.held_out(kind, [CONTEXT], 9))

    assert _same(held_out(TEST), held_out(TEST))
    assert not _same(held_out(TEST), held_out(VALIDATION))
    for seed, step in ((0, 0), (1, 0), (0, 1), (1, 1)):
        drawn = _batch(task, 9, seed, step)
        assert not any(_same(drawn, held_out(kind)) for kind in (TEST, VALIDATION))


def test_worked_example(task):
    done = doctest.testmod(importlib.import_module(type(task).__module__))
    assert done.attempted
    assert not done.failed


def test_what_the_task_has_not_is_named(task):
    with pytest.raises(ValueError, match=f"{task.name} draws its own sequences"):
        task.prepare("a file", Path(), "byte", 0, None)
    with pytest.raises(ValueError, match=f"{task.name} draws its own sequences"):
        task.read("a file", None)
    with pytest.raises(ValueError, match="carry"):
        task.feed(3, CONTEXT, 0, carry=True)


# Where some answers are more frequent than others: of those as frequent the largest counts; 7 is usual.
UNEVEN = ("majority", "majority_count", "compress")


def test_a_guess_is_right_by_chance(task, monkeypatch):
    """Whoever always says the same; and scaled by chance, it is worth nothing."""
    batches = list(task.held_out(TEST, task.spread(CONTEXT, 4000), 4000))
    targets = torch.cat([batch[asked(batch)] for _, batch in batches])
    usual = targets.mode().values if task.name in UNEVEN else targets.max()
    answer = torch.ones(1) if targets.is_floating_point() else torch.eye(task.size)[usual]
    guess = judge(_saying(answer), batches)
    if task.name in UNEVEN:
        assert guess.accuracy > 1.2 * task.chance
        return
    assert guess.accuracy == pytest.approx(task.chance, abs=3 * (task.chance / guess.asked) ** 0.5)
    monkeypatch.setattr(type(task), "judged", lambda *_: {"": guess})
    assert task.scores(None, CONTEXT)["scaled_accuracy@"] == pytest.approx(0, abs=0.06)


def _saying(logits):
    """A model that always gives one answer."""

    class Saying(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.logits = torch.nn.Parameter(logits)

        def forward(self, inputs):
            inputs = inputs.target if isinstance(inputs, Pair) else inputs
            return self.logits.expand(*inputs.shape[:2], -1), None

    return Saying()


def test_answers_are_counted_over_all_sequences(task, monkeypatch):
    model = _model(task)
    inputs, targets = next(task.held_out(TEST, [CONTEXT], 7))
    logits = model(inputs)[0]
    close = (logits[..., 0] - targets).abs() <= 0.04
    right = close if targets.is_floating_point() else logits.argmax(-1) == targets
    monkeypatch.setattr(answers, "CHUNK", 3 * answers._steps(inputs) // 7)
    got = judge(model, [(inputs, targets)])
    assert got.whole == pytest.approx((right | ~asked(targets)).all(1).double().mean().item())
    assert got.accuracy == pytest.approx(right[asked(targets)].double().mean().item())
    assert got.loss == pytest.approx(model.loss(inputs, targets)[0].item(), rel=1e-5)
    assert got.asked == asked(targets).sum()
    assert task.better(0.5, 0.4)
    assert not task.better(0.4, 0.4)


def test_scores_are_those_of_the_lengths(task, monkeypatch):
    monkeypatch.setattr("recurra.tasks.sampled.SEQUENCES", 16)
    model = _model(task)
    found = task.scores(model, CONTEXT, [24, 20])
    assert list(found)[:4] == ["accuracy@24", "scaled_accuracy@24", "whole@24", "loss@24"]
    assert found["accuracy@20"] == judge(model, task.held_out(TEST, [20], 16)).accuracy
    assert len(task.report(model, CONTEXT, [24, 20])) == 2
    assert 0 <= task.score(model, CONTEXT, 16) <= 1


def test_a_model_that_copies_is_right():
    """The data tokens in their order, where they are asked for."""

    def answers(tokens):
        data = [row[(row > 0) & (row < 15)] for row in tokens]
        logits = torch.zeros(*tokens.shape, 16)
        logits[:, -16:].scatter_(-1, torch.stack(data)[..., None], 1.0)
        return logits, None

    model = type("Copies", (), {"__call__": lambda _, tokens: answers(tokens)})()
    model.parameters = lambda: iter([torch.zeros(1)])
    assert SelectiveCopying().score(model, 40, 9) == 1


def test_selective_copying_needs_room():
    with pytest.raises(ValueError, match="context must be at least 16"):
        SelectiveCopying().feed(3, 15, 0, carry=False)
    with pytest.raises(ValueError, match="count must be at least 1"):
        SelectiveCopying(count=0)


def test_places_and_data_are_drawn_alike():
    tokens, _ = SelectiveCopying(count=2).sample(np.random.default_rng(0), 4000, 8)
    places = (tokens[:, :8] != 15).double().mean(0)
    assert (places - 0.25).abs().max() < 0.03
    data = tokens[:, :8][tokens[:, :8] != 15].bincount(minlength=16) / 8000
    assert data[0] == data[15] == 0
    assert (data[1:15] - 1 / 14).abs().max() < 0.015


@pytest.mark.parametrize("length", [2, 3, 50])
def test_adding_is_the_sum_of_a_number_of_each_half(length):
    inputs, targets = Adding().sample(np.random.default_rng(length), 200, length)
    for row, target in zip(inputs, targets, strict=True):
        marked = [t for t in range(length) if row[t, 1] == 1]
        assert len(marked) == 2
        assert marked[0] < length // 2 <= marked[1]
        assert target[-1] == row[marked[0], 0] + row[marked[1], 0]
        assert target[:-1].isnan().all()
    assert ((targets[:, -1] - 1) ** 2).mean() == pytest.approx(1 / 6, abs=0.06)
    assert set((inputs[..., 1] == 1).nonzero()[:, 1].tolist()) == set(range(length))
    with pytest.raises(ValueError, match="context must be at least 2"):
        Adding().feed(3, 1, 0, carry=False)
