"""How far written text is from real text: repetition, words, n-grams."""

import re
from collections import Counter
from collections.abc import Collection

__all__ = ["distance", "repetition", "valid_words", "words"]


def words(text: str) -> list[str]:
    """Words of letters, digits and underscores, in order."""
    return re.findall(r"\w+", text)


def repetition(text: str, length: int = 4) -> float:
    """Share of runs of `length` words that occurred before."""
    all_words = words(text)
    runs = [tuple(all_words[i : i + length]) for i in range(len(all_words) - length + 1)]
    return 1 - len(set(runs)) / len(runs) if runs else 0.0


def valid_words(text: str, known: Collection[str]) -> float:
    """Share of the words that are known."""
    found = words(text)
    return sum(word in known for word in found) / len(found) if found else 0.0


def distance(a: str, b: str, n: int = 3) -> float:
    """Total variation between the n-grams of characters of two texts: 0 (alike) to 1 (none in common)."""
    one, other = _shares(a, n), _shares(b, n)
    return sum(abs(one[gram] - other[gram]) for gram in one.keys() | other.keys()) / 2


def _shares(text: str, n: int) -> "Counter[str]":
    counts = Counter(text[i : i + n] for i in range(len(text) - n + 1))
    total = sum(counts.values())
    return Counter({gram: count / total for gram, count in counts.items()})
