"""Statistics of text at cases that one can count by hand."""

import pytest

from recurra.tasks.writing import distance, repetition, valid_words


def test_repetition():
    assert repetition("a b c d e f") == 0
    assert repetition("a b a b a b a") == pytest.approx(0.5)
    assert repetition("too short") == 0


def test_valid_words():
    assert valid_words("the cat xq", {"the", "cat"}) == pytest.approx(2 / 3)
    assert valid_words("...", {"the"}) == 0


def test_distance():
    assert distance("abcabc", "abcabc") == 0
    assert distance("aaaa", "bbbb") == 1
    assert distance("abab", "abac", n=1) == pytest.approx(0.25)
    assert distance("abab", "abac") == distance("abac", "abab")
