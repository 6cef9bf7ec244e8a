"""Figures as data: maps and curves, which `markup` turns into HTML and `plot` into a PNG."""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from recurra.models.vocabulary import Vocabulary

__all__ = ["Cell", "Curves", "Figure", "Map", "Point", "number", "share", "tokens_shown"]


class Cell(NamedTuple):
    """Of a map: what gives it its colour (None: nothing is known), what stands in it, what is told of it."""

    value: float | None
    text: str
    said: str


class Map(NamedTuple):
    """cells [rows][columns], coloured from low to high; by orders of magnitude where log is set.

    Colours are those of |value| / max(|low|, |high|) where low is negative: zero has none.
    """

    title: str
    rows: Sequence[str]
    columns: Sequence[str]
    cells: Sequence[Sequence[Cell]]
    low: float
    high: float
    log: bool = False


class Point(NamedTuple):
    """Of a curve: where it is, and what is told of it."""

    x: float
    y: float
    said: str


class Curves(NamedTuple):
    """Lines by their names, what x and y are; a logarithmic axis x where log is set."""

    title: str
    x: str
    y: str
    lines: Mapping[str, Sequence[Point]]
    log: bool = False

    @property
    def known(self) -> dict[str, list[Point]]:
        """The lines without points of which y is not finite."""
        return {name: [p for p in line if math.isfinite(p.y)] for name, line in self.lines.items()}

    @property
    def ticks(self) -> list[float]:
        """Places on the axis x that have a point, at most twelve."""
        places = sorted({point.x for line in self.known.values() for point in line})
        return places[:: 1 + len(places) // 13]


Figure = Map | Curves

_SIGNS = {" ": "␣", "\n": "⏎", "\t": "⇥"}


def _sign(character: str) -> str:
    if character in _SIGNS:
        return _SIGNS[character]
    return character if character.isprintable() else character.encode("unicode_escape").decode()


def tokens_shown(tokens: Iterable[int], vocabulary: Vocabulary) -> list[str]:
    """Each token as one sees it: signs for white space, escapes for what can't be printed or is no UTF-8."""
    texts = (vocabulary.piece(int(token)).decode("utf8", "backslashreplace") for token in tokens)
    return ["".join(map(_sign, text)) or "∅" for text in texts]


def number(value: Any) -> float | None:
    """A number of a row, also of one that was read from CSV; None where there is none."""
    return None if value is None or value == "" else float(value)


def share(value: float | None, figure: Map) -> float | None:
    """How much of the colour a value has, -1..1; None where it has none."""
    if value is None or math.isnan(value):
        return None
    if figure.low < 0:
        return max(-1.0, min(1.0, value / max(-figure.low, figure.high)))
    low, high, at = (_scaled(x, figure.log) for x in (figure.low, figure.high, value))
    return max(0.0, min(1.0, (at - low) / (high - low))) if high > low else 0.0


def _scaled(x: float, log: bool) -> float:
    return math.log(max(x, 1e-12)) if log else x
