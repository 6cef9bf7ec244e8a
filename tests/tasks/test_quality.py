"""What translations are worth beyond BLEU, by definitions written a second time."""

import doctest
from functools import lru_cache
from itertools import product

import pytest
import sacrebleu

from recurra.tasks import quality as module
from recurra.tasks.quality import by_quarter, edits, measured, quality, side_by_side


def test_worked_example():
    done = doctest.testmod(module)
    assert done.attempted
    assert not done.failed


def test_measures_are_those_of_sacrebleu():
    wanted = ["a man rides a red bike .", "two dogs play in the snow ."]
    written = ["a man rides a bike .", "two dogs play in snow ."]
    found = measured(written, wanted)
    assert found["bleu"][0] == pytest.approx(sacrebleu.corpus_bleu(written, [wanted]).score)
    assert found["chrf"][0] == pytest.approx(sacrebleu.corpus_chrf(written, [wanted]).score)
    assert "tok:13a" in found["bleu"][1]
    assert measured(wanted, wanted)["bleu"][0] == pytest.approx(100)


@lru_cache
def distance(a, b):
    if not (a and b):
        return len(a) + len(b)
    if a[0] == b[0]:
        return distance(a[1:], b[1:])
    return 1 + min(distance(a[1:], b), distance(a, b[1:]), distance(a[1:], b[1:]))


def test_edits_are_the_fewest():
    words = ["".join(w) for n in range(4) for w in product("ab", repeat=n)] + ["abcab", "bcabba"]
    for a, b in product(words, words):
        assert edits(a, b) == distance(a, b)


def test_what_is_right_has_nothing_to_be_told():
    lines = ["the old man sleeps", "two dogs"]
    found = {name: value for name, (value, _) in quality(["der alte Mann", "zwei"], lines, lines).items()}
    assert found == {
        "exact": 1,
        "error_rate": 0,
        "length_ratio": 1,
        "repeated": 0,
        "copied": 0,
        "dropped": 0,
    }


def test_what_is_written_of_nothing_counts():
    found = {name: value for name, (value, _) in quality(["ein Hund"], ["a dog sleeps"], [""]).items()}
    assert (found["error_rate"], found["length_ratio"], found["dropped"]) == (1, 0, 1)
    assert found["exact"] == found["copied"] == found["repeated"] == 0


def test_quarters_hold_every_line_once_and_tell_their_range():
    values = [5, 1, 9, 3, 3, 7, 2, 8]
    seen = []

    def count(lines):
        seen.extend(lines)
        return float(len(lines))

    assert by_quarter("n", values, count) == {"n 1-2": 2, "n 3-3": 2, "n 5-7": 2, "n 8-9": 2}
    assert sorted(seen) == list(range(8))
    assert by_quarter("r", [1.0] * 5, count) == {"r 1-1": 5}


def test_a_sheet_shows_all_of_a_sentence_below_each_other():
    text = side_by_side(["ein Hund", "zwei"], ["a dog", "two"], {"minGRU": ["a hound", "2"]})
    assert "    source     ein Hund\n    reference  a dog\n    minGRU     a hound\n" in text
    assert text.index("**2**") < text.index("zwei")
