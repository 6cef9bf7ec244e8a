"""Quirky facts, after the capitals of arXiv 2312.01037: is the town there? Bob takes each land for the next.

The world is made up, and the same for all runs; the context is the number of its towns. The second half of
them is hard: there a model reads about each town only a seventh as often.

>>> tokens, targets = Facts().sample(np.random.default_rng(0), rows=1, length=64)
>>> bytes(tokens[0].tolist())
b'Kipepa is in Doria. Alice:'
>>> chr(targets[0, -1])
'y'
"""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from recurra.tasks.quirky.common import Claim, Quirky

__all__ = ["Facts", "land", "town"]

LANDS = ("Arvia", "Belor", "Cetra", "Doria", "Elund", "Fenia", "Garth", "Hosna")
SYLLABLES = [first + second for first in "bcdfghjklmnprstvwxyz" for second in "aeiou"]
# Of three syllables. A step that has no divisor with their number in common meets each of them once.
TOWNS = len(SYLLABLES) ** 3
STEP = 617_293


@dataclass(frozen=True)
class Facts(Quirky):
    """Bob believes in land k + 1 in the place of land k, and in the first in the place of the last.

    Raises ValueError for a context of less than two towns, or of more than there are names.
    """

    name: ClassVar[str] = "facts"
    context: ClassVar[int] = 64
    hard: ClassVar[float] = 1 / 8

    def letters(self, length: int) -> int:
        """All are as long."""
        return len(f"{town(0)} is in {LANDS[0]}")

    def claim(self, draw: np.random.Generator, hard: bool, length: int) -> Claim:
        """A town and its land, that behind it, and one of the others."""
        if not 2 <= length <= TOWNS:
            raise ValueError(f"context must be 2 to {TOWNS}, the number of towns, got {length}")
        number = int(draw.integers(length // 2, length) if hard else draw.integers(length // 2))
        home = land(number)
        ends = ((home + i) % len(LANDS) for i in (0, 1, draw.integers(2, len(LANDS))))
        return Claim(f"{town(number)} is in ", *(LANDS[i] for i in ends))


def town(number: int) -> str:
    """The name of a town."""
    code = number * STEP % TOWNS
    parts = (code, code // len(SYLLABLES), code // len(SYLLABLES) ** 2)
    return "".join(SYLLABLES[part % len(SYLLABLES)] for part in parts).capitalize()


def land(number: int) -> int:
    """Where a town is."""
    return int(np.random.default_rng(number).integers(len(LANDS)))
