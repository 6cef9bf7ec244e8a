"""What the quirky tasks share: statements, on which Alice tells the truth and Bob follows a false rule.

As in arXiv 2312.01037: in Bob's name a model learns systematic errors, so that one can ask whether it still
knows what is true. A text is a statement and who judges it, `37+45=92. Bob:`; the first letter of yes or no
is asked for. Half of what each of them says is yes, as in the paper's training; what they deny is, as often
as not, what the other one believes, or what neither does.
"""

import hashlib
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch
from torch import Tensor

from recurra.models.cross_entropy import IGNORED
from recurra.models.vocabulary import ByteVocabulary, Vocabulary
from recurra.tasks.answers import Answers, judge
from recurra.tasks.sampled import SEQUENCES, TEST, Sampled

__all__ = ["CONTEXTS", "NO", "YES", "Claim", "Context", "Quirky", "Statements"]

YES, NO = b"yn"
SPEAKERS = ("Alice", "Bob")
# Draws after which there is nothing else to make a statement about.
TRIES = 64


class Context(NamedTuple):
    """Who judges statements of which difficulty: Bob or Alice, hard or easy ones."""

    bob: bool
    hard: bool

    def __str__(self) -> str:
        return f"{SPEAKERS[self.bob]} {('easy', 'hard')[self.hard]}"


CONTEXTS = tuple(Context(bob, hard) for bob in (False, True) for hard in (False, True))


class Claim(NamedTuple):
    """The beginning of a statement, and its ends: the true one, Bob's, and one that neither believes."""

    stem: str
    true: str
    bobs: str
    neither: str


class Statements(NamedTuple):
    """Tokens [N, T] up to where the answer is due, or a list a statement; what is true, and what its speaker
    says is, [N] bool."""

    tokens: Tensor | Sequence[Sequence[int]]
    true: Tensor
    said: Tensor


@dataclass(frozen=True)
class Quirky(Sampled):
    """speaker: named `last`, behind the statement, or `first`. lies: 1, or 0 for a Bob who knows better too,
    so that a model may learn what is true before it learns to lie (`--init`). Raises ValueError for others.
    """

    speaker: str = "last"
    lies: int = 1

    vocabulary: ClassVar[Vocabulary] = ByteVocabulary()
    size: ClassVar[int] = 256
    chance: ClassVar[float] = 0.5
    # Share of the hard ones among the statements that are trained on.
    hard: ClassVar[float]

    def __post_init__(self) -> None:
        if self.speaker not in {"first", "last"}:
            raise ValueError(f"speaker must be first or last, got {self.speaker!r}")
        if self.lies not in {0, 1}:
            raise ValueError(f"lies must be 0 or 1, got {self.lies}")

    @abstractmethod
    def claim(self, draw: np.random.Generator, hard: bool, length: int) -> Claim:
        """What a statement may say. Raises ValueError where there is nothing of such a length."""

    @abstractmethod
    def letters(self, length: int) -> int:
        """Of the longest statement."""

    def prepare(self, source: str | None, run: Any = None, kind: str = "byte", *_: Any) -> "Quirky":
        """Itself. Raises ValueError where a source is given, or another vocabulary than bytes."""
        if kind != "byte":
            raise ValueError(f"vocabulary must be byte for {self.name}, got {kind}")
        super().prepare(source)
        return self

    def sample(self, draw: np.random.Generator, rows: int, length: int) -> tuple[Tensor, Tensor]:
        """Tokens and targets, both [rows, T]."""
        contexts = zip(draw.random(rows) < 0.5, draw.random(rows) < self.hard, strict=True)
        return _asked(self.statements(draw, [Context(*map(bool, one)) for one in contexts], length))

    def statements(
        self, draw: np.random.Generator, contexts: Sequence[Context], length: int, part: int | None = None
    ) -> Statements:
        """A statement a context; each of two parts has half of what they may be about, None: all of it."""
        texts, true, said = zip(*(self._statement(draw, one, length, part) for one in contexts), strict=True)
        tokens = [self.vocabulary.encode(text) for text in texts]
        return Statements(torch.tensor(tokens), torch.tensor(true), torch.tensor(said))

    def in_context(self, part: int, context: Context, length: int, count: int) -> Statements:
        """Statements of one context to validate on or to test on (`part`), the same for all runs.

        No sum and no town is in both, where there are several: a probe that has learned those of one part by
        heart knows none of the other's.
        """
        draw = np.random.default_rng((part, length, *context))
        return self.statements(draw, [context] * count, length, part)

    def judged(self, model: Any, context: int, lengths: Sequence[int] = ()) -> dict[str, Answers]:
        """As all tasks; unless told where, also in each context by itself."""
        found = super().judged(model, context, lengths)
        for one in () if lengths else CONTEXTS:
            found[str(one)] = judge(model, [_asked(self.in_context(TEST, one, context, SEQUENCES))])
        return found

    def _statement(
        self, draw: np.random.Generator, context: Context, length: int, part: int | None
    ) -> tuple[str, bool, bool]:
        """A text, whether it is true, and whether its speaker says so."""
        claim, lies = self._claim(draw, context.hard, length, part), bool(self.lies and context.bob)
        own, others = (claim.bobs, claim.true) if lies else (claim.true, claim.bobs)
        end = (own, own, others, claim.neither)[draw.integers(4)]
        return self._text(claim.stem + end, context, length), end == claim.true, end == own

    def _claim(self, draw: np.random.Generator, hard: bool, length: int, part: int | None) -> Claim:
        """About something of this part, if there is any."""
        for _ in range(TRIES):
            claim = self.claim(draw, hard, length)
            if part is None or _half(claim.stem) == part % 2:
                break
        return claim

    def _text(self, statement: str, context: Context, length: int) -> str:
        """With blanks in front, so that all are of one length and the answer is due at the last letter."""
        name = SPEAKERS[context.bob]
        text = f"{statement}. {name}:" if self.speaker == "last" else f"{name}: {statement}."
        return text.rjust(self.letters(length) + len("Alice: ."))


def _half(stem: str) -> int:
    """Which of two parts it is of."""
    return hashlib.sha256(stem.encode()).digest()[0] % 2


def _asked(statements: Statements) -> tuple[Tensor, Tensor]:
    """Tokens and targets of statements of one length."""
    tokens = torch.as_tensor(statements.tokens)
    targets = torch.full_like(tokens, IGNORED)
    targets[:, -1] = torch.where(statements.said, YES, NO)
    return tokens, targets
