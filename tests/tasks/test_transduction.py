"""What is to be written, by its definition in plain Python; and the options that can't be."""

import numpy as np
import pytest

from recurra.tasks.table import TASKS, parse
from recurra.tasks.transduction.common import Transduction

# Of a word, as numbers from 1 to 32, with groups of 4.
ANSWERS = {
    "copy": list,
    "reverse": lambda word: [word[-1 - i] for i in range(len(word))],
    "sort": sorted,
    "compress": lambda word: [max(word[i : i + 4]) for i in range(0, len(word), 4)],
    "expand": lambda word: [(x - 1 + i) % 32 + 1 for x in word for i in range(4)],
}


def test_all_are_listed():
    assert [name for name, kind in TASKS.items() if issubclass(kind, Transduction)] == list(ANSWERS)


@pytest.mark.parametrize("name", ANSWERS)
@pytest.mark.parametrize("length", [1, 4, 7, 40])
def test_answers(name, length):
    ratio = ":ratio=4" if name in {"compress", "expand"} else ""
    pair, targets = parse(name + ratio).sample(np.random.default_rng(length), 50, length)
    for word, read, written in zip(*(x.tolist() for x in (pair.source, pair.target, targets)), strict=True):
        assert word[0] == word[-1] == 0
        assert written == [*ANSWERS[name](word[1:-1]), 0]
        assert read == [0, *written[:-1]]
    longer = max(pair.source.shape[1] - 2, targets.shape[1] - 1)
    assert longer == (max(length // 4, 1) * 4 if ratio else length)


def test_words_have_all_lengths():
    task, draw = parse("copy:shortest=3"), np.random.default_rng(0)
    assert {task.length(draw, 6) for _ in range(99)} == {3, 4, 5, 6}
    assert task.lengths(80) == [10, 20, 40, 80]
    assert task.lengths(3) == [1, 3]


@pytest.mark.parametrize("name", ["compress", "expand"])
def test_words_are_as_long_as_the_lengths_say(name):
    task = parse(name)
    assert task.lengths(64) == [10, 30, 60]
    for length in task.lengths(64):
        pair, targets = task.sample(np.random.default_rng(0), 1, length)
        assert max(pair.source.shape[1] - 2, targets.shape[1] - 1) == length


@pytest.mark.parametrize(
    ("task", "named"),
    [
        ("copy:symbols=1", "symbols must be at least 2"),
        ("sort:shortest=0", "shortest 1, got 32 and 0"),
        ("compress:ratio=0", "ratio must be at least 1"),
        ("expand:ratio=0", "ratio must be at least 1"),
    ],
)
def test_what_is_wrong_is_named(task, named):
    with pytest.raises(ValueError, match=named):
        parse(task)
