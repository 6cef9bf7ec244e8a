"""Formal languages against what their definitions say of a word, a symbol at a time."""

import itertools
from collections import Counter

import numpy as np
import pytest

from recurra.models import language_model
from recurra.models.cross_entropy import IGNORED
from recurra.tasks.answers import judge
from recurra.tasks.formal.common import Formal
from recurra.tasks.sampled import TEST
from recurra.tasks.table import TASKS, parse

LANGUAGES = [name for name, kind in TASKS.items() if issubclass(kind, Formal)]


def _walk(word):
    place = 0
    for step in word:
        place = {0: place - 1, 1: place, 2: place + 1}[step] % 5
    return [place]


def _arithmetic(word):
    return [eval("".join("01234+-*"[token] for token in word)) % 5]


def _most(word):
    return max(Counter(word).values())


WANT = {
    "parity": lambda word: [word.count(1) % 2],
    "even_pairs": lambda word: [sum(a != b for a, b in itertools.pairwise(word)) % 2],
    "cycle_navigation": _walk,
    "modular_arithmetic": _arithmetic,
    "bucket_sort": sorted,
    "majority": lambda word: [max(symbol for symbol, count in Counter(word).items() if count == _most(word))],
    "majority_count": lambda word: [_most(word)],
}


def _rows(name, length, seed):
    """Words and answers, as lists."""
    task = parse(name)
    tokens, targets = task.sample(np.random.default_rng(seed), 20, length)
    blank = tokens == task.symbols
    assert blank.equal(targets != IGNORED)
    return [
        (word[~empty].tolist(), answer[empty].tolist())
        for word, answer, empty in zip(tokens, targets, blank, strict=True)
    ]


@pytest.mark.parametrize("length", [1, 2, 3, 7, 40, 257])
@pytest.mark.parametrize("name", WANT)
def test_answers_are_those_of_the_definition(name, length):
    for word, answer in _rows(name, length, length):
        assert len(word) == length - (name == "modular_arithmetic" and length % 2 == 0)
        assert answer == WANT[name](word)


@pytest.mark.parametrize("length", [1, 2, 3, 7, 40])
def test_missing_duplicate(length):
    for seed in range(9):
        for word, (answer,) in _rows("missing_duplicate", length, seed):
            assert length <= len(word) < 2 * length
            assert word[length:] == word[: len(word) - length]
            assert answer == word[len(word) - length]


def test_every_language_has_its_definition():
    assert set(LANGUAGES) == {*WANT, "missing_duplicate"}


@pytest.mark.parametrize("name", LANGUAGES)
def test_all_symbols_and_answers_occur(name):
    task = parse(name)
    tokens, targets = task.sample(np.random.default_rng(0), 3000, 9)
    assert set(tokens.flatten().tolist()) == set(range(task.symbols + 1))
    said = set(targets.flatten().tolist()) - {IGNORED}
    assert said == (set(range(1, max(said) + 1)) if name == "majority_count" else set(range(task.classes)))


@pytest.mark.parametrize("name", LANGUAGES)
def test_lengths(name):
    """One a step, all from the shortest to the context; held out are those of the papers."""
    task = parse(f"{name}:shortest=5")
    drawn = {task.length(np.random.default_rng(seed), 8) for seed in range(60)}
    assert drawn == {5, 6, 7, 8}
    assert list(task.spread(8, 10**6)) == list(range(40, 257))
    assert len(task.spread(8, 64)) == 8
    assert {40, 256, 512} <= set(task.lengths(8))
    with pytest.raises(ValueError, match="context must be at least 5"):
        task.feed(2, 4, 0, carry=False)


def test_all_lengths_of_a_score_count_alike(monkeypatch):
    """However many answers they ask for: of bucket sort a long word asks for more."""
    monkeypatch.setattr("recurra.tasks.sampled.SEQUENCES", 16)
    task, model = parse("bucket_sort"), language_model("mingru", 11, 4, 1).eval()
    first, last = (judge(model, task.held_out(TEST, [n], 8)).accuracy for n in (40, 256))
    assert first != last
    assert task.scores(model, 40)["accuracy@40-256"] == pytest.approx((first + last) / 2)


def test_scores_have_a_mean_over_the_lengths(monkeypatch):
    monkeypatch.setattr("recurra.tasks.sampled.SEQUENCES", 16)
    monkeypatch.setattr("recurra.tasks.formal.common.CURVE", (6, 9))
    scores = parse("parity").scores(language_model("mingru", 3, 4, 1), 40)
    assert [name for name in scores if name.startswith("accuracy")] == [
        "accuracy@6",
        "accuracy@9",
        "accuracy@40-256",
    ]
