"""Induction, MQAR and ListOps against what their definitions say of a sequence, a token at a time."""

import numpy as np
import pytest

from recurra.models.cross_entropy import IGNORED
from recurra.tasks.induction import Induction
from recurra.tasks.listops import CLOSE, OPEN, PAD, ListOps, spelt
from recurra.tasks.mqar import MQAR


def _rows(task, length, rows=40, seed=0):
    tokens, targets = task.sample(np.random.default_rng(seed), rows, length)
    return list(zip(tokens.tolist(), targets.tolist(), strict=True))


@pytest.mark.parametrize("length", [3, 4, 20])
def test_induction(length):
    places = set()
    for tokens, targets in _rows(Induction(size=6), length, rows=200):
        assert tokens.count(0) == 2
        assert tokens[-1] == 0
        places.add(tokens.index(0))
        assert targets == [IGNORED] * (length - 1) + [tokens[tokens.index(0) + 1]]
    assert places == set(range(length - 2))


@pytest.mark.parametrize(("pairs", "length"), [(1, 4), (4, 16), (4, 17), (8, 128)])
def test_mqar_is_a_dictionary(pairs, length):
    """Each key is looked up once, behind the pairs, at an even place."""
    task = MQAR(pairs=pairs, size=40)
    for tokens, targets in _rows(task, length):
        start = 2 * pairs
        known = dict(zip(tokens[0:start:2], tokens[1:start:2], strict=True))
        assert len(known) == len(set(known.values())) == pairs
        assert all(0 < key < 20 <= value < 40 for key, value in known.items())
        asked = [t for t, target in enumerate(targets) if target != IGNORED]
        assert sorted(tokens[t] for t in asked) == sorted(known)
        assert all(t >= start and t % 2 == 0 and targets[t] == known[tokens[t]] for t in asked)


def test_mqar_asks_sooner_rather_than_later():
    tokens, targets = MQAR(pairs=2, size=20).sample(np.random.default_rng(0), 4000, 64)
    asked = (targets != IGNORED).double().mean(0)[4::2]
    assert asked.sum() == 2
    # Of the first of a row, by the law; of both it is more even.
    assert asked[0] > asked[1] > asked[3] > asked[9] > 0
    keys = tokens[:, :4:2].flatten().bincount(minlength=10) / 8000
    assert keys[0] == 0
    assert (keys[1:] - 1 / 9).abs().max() < 0.02


def test_limits_are_named():
    with pytest.raises(ValueError, match="context must be at least 16, 4 x pairs, got 15"):
        MQAR().feed(3, 15, 0, carry=False)
    with pytest.raises(ValueError, match="pairs must be 1 to size / 2 - 1, got 8, size 16"):
        MQAR(pairs=8, size=16)
    with pytest.raises(ValueError, match="context must be at least 3"):
        Induction().feed(3, 2, 0, carry=False)
    with pytest.raises(ValueError, match="size must be at least 2"):
        Induction(size=1)
    with pytest.raises(ValueError, match="must be at least 2, got 1, 5"):
        ListOps(depth=1)
    with pytest.raises(ValueError, match="no expression of 20 to 10 tokens turned up"):
        ListOps().feed(3, 10, 0, carry=False)


OPERATORS = {
    "[MAX": max,
    "[MIN": min,
    "[MED": lambda x: int(np.median(x)),
    "[SM": lambda x: sum(x) % 10,
}


def _parsed(words, depth=1):
    """Value of the expression that the words begin with, its depth, and the most arguments of an operator."""
    word = next(words)
    if word not in OPERATORS:
        return int(word), depth, 0
    parts = []
    while words.peek() != "]":
        parts.append(_parsed(words, depth + 1))
    next(words)
    values, depths, counts = zip(*parts, strict=True)
    return OPERATORS[word](values), max(depths), max(len(parts), *counts)


class _Words:
    """An iterator that can tell what comes next."""

    def __init__(self, text):
        self.words = text.split()[::-1]

    def __next__(self):
        return self.words.pop()

    def peek(self):
        return self.words[-1]


@pytest.mark.parametrize(
    ("task", "longest"),
    [(ListOps(), 100), (ListOps(depth=3, arguments=9, shortest=1), 30), (ListOps(depth=10, arguments=3), 40)],
)
def test_listops_is_what_a_parser_says(task, longest):
    tokens, targets = task.sample(np.random.default_rng(0), 300, longest)
    lengths, depths, counts, seen = set(), set(), set(), set()
    for row, target in zip(tokens, targets, strict=True):
        words = _Words(spelt(row))
        seen |= set(words.words)
        lengths.add(length := len(words.words))
        value, depth, count = _parsed(words)
        depths.add(depth)
        counts.add(count)
        assert not words.words
        assert row[length:].eq(PAD).all()
        assert target.tolist() == [IGNORED] * (length - 1) + [value] + [IGNORED] * (len(row) - length)
    assert task.shortest <= min(lengths) <= max(lengths) <= longest
    assert max(depths) == task.depth
    assert max(counts) == task.arguments
    assert len(seen) == 15


def test_listops_draws_lists_and_digits_as_often_as_it_should():
    """Of the values that are not too deep a quarter are lists, where none is thrown away for its length."""
    task = ListOps(depth=3, arguments=2, shortest=1)
    tokens, _ = task.sample(np.random.default_rng(0), 3000, 20)
    inner = ((tokens >= OPEN) & (tokens < CLOSE)).sum(1) - 1
    assert inner.double().mean() / 2 == pytest.approx(0.25, abs=0.02)
    kinds = tokens[(tokens >= OPEN) & (tokens < CLOSE)].bincount()[OPEN:]
    assert (kinds / kinds.sum() - 0.25).abs().max() < 0.02
