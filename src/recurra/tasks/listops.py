"""ListOps (arXiv 1804.06028; lengths and limits as in arXiv 2011.04006): the value of nested lists of digits.

Tokens 0 to 9 are digits; 10 to 13 open a list, [MAX, [MIN, [MED, [SM (sum modulo 10); 14 closes it; 15 pads.
The median of an even number of values is rounded down. A value is a list with probability 1/4, unless too
deep, or else a digit. Expressions that are too short or too long are thrown away; the answer is due at their
last token. Those of the papers are drawn once, these anew at every step.

>>> tokens, targets = ListOps(shortest=6).sample(np.random.default_rng(1), rows=1, length=12)
>>> spelt(tokens[0])
'[SM [MIN 4 6 8 ] 4 ]'
>>> targets
tensor([[-100, -100, -100, -100, -100, -100, -100,    8]])
"""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from recurra.models.cross_entropy import IGNORED
from recurra.tasks.sampled import Sampled

__all__ = ["ListOps", "spelt"]

Ints = NDArray[np.int64]

WORDS = (*"0123456789", "[MAX", "[MIN", "[MED", "[SM", "]", "")
OPEN, CLOSE, PAD = 10, 14, 15
OPERATORS = CLOSE - OPEN
# Probability that a value is a list.
NESTED = 0.25
# Expressions drawn at a time, and how often they are before a length is given up.
DRAWN, PATIENCE = 256, 50
# Where there is no argument: above all digits.
NONE = 10


@dataclass(frozen=True)
class ListOps(Sampled):
    """depth: of the tree, root and leaves counted; arguments: of an operator at most; shortest: tokens of an
    expression, context is the longest. The Long Range Arena has 10, 10 and 500, context 2000.

    Raises ValueError where no such expression turns up.
    """

    depth: int = 5
    arguments: int = 5
    shortest: int = 20

    name: ClassVar[str] = "listops"
    context: ClassVar[int] = 100
    size: ClassVar[int] = PAD + 1
    chance: ClassVar[float] = 0.1

    def __post_init__(self) -> None:
        if self.depth < 2 or self.arguments < 2:
            raise ValueError(f"depth and arguments must be at least 2, got {self.depth}, {self.arguments}")

    def sample(self, draw: np.random.Generator, rows: int, length: int) -> tuple[Tensor, Tensor]:
        """Tokens and targets, both [rows, T], T that of the longest of them."""
        found: list[tuple[Ints, Ints, Ints]] = []
        count = rounds = 0
        while count < rows:
            if rounds == PATIENCE and not count:
                raise ValueError(f"no expression of {self.shortest} to {length} tokens turned up: {self}")
            tokens, ends, values = _Growth(self, draw, DRAWN, length).grown()
            kept = (ends > 0) & (ends >= self.shortest)
            found.append((tokens[kept], ends[kept], values[kept]))
            count, rounds = count + int(kept.sum()), rounds + 1
        return _padded(*(np.concatenate(part)[:rows] for part in zip(*found, strict=True)))


def _padded(tokens: Ints, ends: Ints, values: Ints) -> tuple[Tensor, Tensor]:
    targets = np.full_like(tokens, IGNORED)
    targets[np.arange(len(tokens)), ends - 1] = values
    longest = ends.max()
    return torch.from_numpy(tokens[:, :longest].copy()), torch.from_numpy(targets[:, :longest].copy())


def spelt(tokens: Tensor) -> str:
    """An expression as people write it."""
    return " ".join(WORDS[token] for token in tokens.tolist()).rstrip()


class _Growth:
    """Expressions that all get a token at each step. level: lists that are open, 0 once it is over."""

    def __init__(self, task: ListOps, draw: np.random.Generator, rows: int, length: int) -> None:
        self.task, self.draw = task, draw
        self.tokens = np.full((rows, length), PAD)
        self.level, self.ends, self.values = np.zeros((3, rows), np.int64)
        # Of the open lists, by level: the operator, the arguments still to come, and those that are there.
        self.operator, self.left = np.zeros((2, rows, task.depth), np.int64)
        self.given = np.zeros((rows, task.depth, task.arguments), np.int64)

    def grown(self) -> tuple[Ints, Ints, Ints]:
        """Tokens [rows, length], lengths (0: not at its end) and values [rows]."""
        rows = np.arange(len(self.tokens))
        self._open(rows, 0)
        for step in range(1, self.tokens.shape[1]):
            rows = rows[self.level[rows] > 0]
            full = self.left[rows, self.level[rows]] == 0
            list_next = (self.draw.random(len(rows)) < NESTED) & (self.level[rows] + 1 < self.task.depth)
            self._close(rows[full], step)
            self._open(rows[~full & list_next], step)
            self._digit(rows[~full & ~list_next], step)
        return self.tokens, self.ends, self.values

    def _open(self, rows: Ints, step: int) -> None:
        operator = self.draw.integers(0, OPERATORS, len(rows))
        self.tokens[rows, step] = OPEN + operator
        self.level[rows] += 1
        level = self.level[rows]
        self.operator[rows, level], self.given[rows, level] = operator, NONE
        self.left[rows, level] = self.draw.integers(2, self.task.arguments + 1, len(rows))

    def _digit(self, rows: Ints, step: int) -> None:
        digits = self.draw.integers(0, 10, len(rows))
        self.tokens[rows, step] = digits
        self._give(rows, digits)

    def _close(self, rows: Ints, step: int) -> None:
        self.tokens[rows, step] = CLOSE
        level = self.level[rows]
        values = _value(self.operator[rows, level], self.given[rows, level])
        self.level[rows] -= 1
        over = level == 1
        self.ends[rows[over]], self.values[rows[over]] = step + 1, values[over]
        self._give(rows[~over], values[~over])

    def _give(self, rows: Ints, values: Ints) -> None:
        """An argument of the innermost list, the last place first: no operator asks for their order."""
        level = self.level[rows]
        self.left[rows, level] -= 1
        self.given[rows, level, self.left[rows, level]] = values


def _value(operator: Ints, given: Ints) -> Ints:
    """Of lists [N] of arguments [N, arguments], of which some are NONE."""
    row, ordered, count = np.arange(len(given)), np.sort(given, axis=1), (given < NONE).sum(1)
    middle = (ordered[row, (count - 1) // 2] + ordered[row, count // 2]) // 2
    total = np.where(given < NONE, given, 0).sum(1) % 10
    return np.choose(operator, [ordered[row, count - 1], ordered[:, 0], middle, total])
