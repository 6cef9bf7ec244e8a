"""Pairs of texts that differ in one behaviour: their files, and their tokens."""

import csv
import json
import os
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Sized
from pathlib import Path
from typing import Any, NamedTuple

__all__ = ["Pair", "alike", "encode_pairs", "read_pairs"]

# Tokens that are read at a time.
_CHUNK = 8192
# The columns of a file, and those of the behaviour sets, whose answers are "(A)" and "(B)".
_PLAIN = ("prompt", "matching", "not_matching")
_CHOICE = ("question", "answer_matching_behavior", "answer_not_matching_behavior")


class Pair(NamedTuple):
    """Tokens of a prompt, and of two ways to go on: one that shows the behaviour, one that does not."""

    prompt: Sequence[int]
    matching: Sequence[int]
    other: Sequence[int]


def read_pairs(path: str | os.PathLike[str], template: str = "{}\n") -> list[tuple[str, str, str]]:
    """(prompt, matching, not matching) of each pair in a JSON list of objects, or in a CSV file.

    Keys `prompt` (may be empty), `matching`, `not_matching`; or those of the behaviour sets, `question`,
    `answer_matching_behavior` and `answer_not_matching_behavior`. There the question is put into the
    template, what both answers begin with is the end of the prompt, and what both end with is left out: of
    "(A)" and "(B)" the letter is left, as in arXiv 2404.05971. Raises ValueError that names file and pair.
    """
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8")
        rows: Any = (
            json.loads(text) if path.suffix == ".json" else list(csv.DictReader(text.splitlines(True)))
        )
    except ValueError as e:
        raise ValueError(f"{path} is no file of pairs: {e}") from e
    if not isinstance(rows, list) or not rows:
        raise ValueError(f"{path} must hold at least one pair")
    return [_pair(row, template, f"{path}: pair {i}") for i, row in enumerate(rows)]


def _pair(row: Any, template: str, where: str) -> tuple[str, str, str]:
    for keys in (_PLAIN, _CHOICE):
        if isinstance(row, Mapping) and all(isinstance(row.get(key), str) for key in keys):
            prompt, matching, other = (row[key] for key in keys)
            break
    else:
        raise ValueError(f"{where} must have the texts {', '.join(_PLAIN)}, or {', '.join(_CHOICE)}")
    if keys is _CHOICE:
        prompt, matching, other = _letters(template.replace("{}", prompt), matching, other)
    if not matching or not other or matching == other:
        raise ValueError(f"{where} must have two answers that differ, got {matching!r} and {other!r}")
    return prompt, matching, other


def _common(one: str, other: str) -> int:
    """How many characters both begin with."""
    pairs = enumerate(zip(one, other, strict=False))
    return next((i for i, (a, b) in pairs if a != b), min(len(one), len(other)))


def _letters(prompt: str, matching: str, other: str) -> tuple[str, str, str]:
    begin = _common(matching, other)
    prompt, matching, other = prompt + matching[:begin], matching[begin:], other[begin:]
    end = _common(matching[::-1], other[::-1])
    return prompt, matching[: len(matching) - end], other[: len(other) - end]


def encode_pairs(texts: Iterable[tuple[str, str, str]], encode: Callable[[str], Sequence[int]]) -> list[Pair]:
    """Tokens of each text by itself, so that both answers go on from one prompt."""
    return [Pair(*(list(encode(text)) for text in row)) for row in texts]


def alike(texts: Iterable[Sized]) -> Iterator[list[int]]:
    """Indices of texts of one length, a few at a time."""
    groups = defaultdict[int, list[int]](list)
    for i, text in enumerate(texts):
        groups[len(text)].append(i)
    for length, rows in groups.items():
        size = max(1, _CHUNK // length)
        yield from (rows[begin : begin + size] for begin in range(0, len(rows), size))
