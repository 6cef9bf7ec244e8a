"""Two behaviours of a small model of text, fixed before any was steered, and what steering does to them.

Vectors are of passages of the held-out text that show the behaviour, less those of passages that do not.
Block and multiplier are chosen on some prompts, and judged on others, which ask the same about other things.
"""

import re
from collections.abc import Iterator, Sequence
from itertools import product
from typing import Any, NamedTuple

from torch import Tensor

from recurra.bench.report import Row
from recurra.interp.contrast import contrast
from recurra.interp.doses import MULTIPLIERS, Dose, Writing, answers, by_chance, change, sweep
from recurra.interp.knowledge import readable
from recurra.interp.pairs import Pair, encode_pairs
from recurra.interp.subject import Place

__all__ = ["BEHAVIOURS", "Behaviour", "passages", "steered"]

# Of the held-out text: characters of a passage, and how many of each kind there are.
LENGTH, PASSAGES = 128, 64
# Of the text that is written under steering and then judged.
WRITTEN = 32
# The paper's multipliers, and twice as far.
DOSES = (2 * MULTIPLIERS[0], *MULTIPLIERS, 2 * MULTIPLIERS[-1])
# Vectors of other signs that a chosen one is compared with.
DRAWN = 99
# Of the probability of both answers, that steering must leave to be chosen.
KEPT = 0.5
Texts = list[tuple[str, str, str]]


class Behaviour(NamedTuple):
    """What passages of either kind hold (regular expressions); questions as (beginning, matching, other),
    with {} for what they are about. Both answers are of one length: a ruined model likes short ones."""

    name: str
    shows: str
    lacks: str
    questions: Sequence[tuple[str, str, str]]

    def prompts(self, about: Sequence[str]) -> Texts:
        """Each question about each of these."""
        asked = product(about, self.questions)
        return [(begin.format(thing), own, other) for thing, (begin, own, other) in asked]


# Tokenised prose of Wikipedia has blanks in front of commas and stops; in plays names stand by themselves.
PROSE, PLAY = r"[a-z] , [a-z].*[a-z] \. ", r"\n\n[A-Z][A-Za-z ]+:\n"
# A line by itself is of a play, to such models: towards prose there is a way to go. These questions are those
# that a Transformer of 2.5 bits per byte answers otherwise behind prose than behind a play.
BEHAVIOURS = (
    Behaviour(
        "tokenised prose",
        PROSE,
        PLAY,
        (
            ("\nThe {}", " ,", ", "),
            ("\nMy {}", " ,", ", "),
            ("\nO {}, ", "in ", "my "),
            ("\nGood {}, ", "in", "I "),
        ),
    ),
    Behaviour(
        "markup",
        r"\[\[.*\]\].*\[\[",
        PROSE,
        (
            ("\nThe {} of ", "[[", "th"),
            ("\nThe {} came from ", "[[", "th"),
            ("\nThe {} was made by ", "[[", "th"),
            ("\nA {} in ", "[[", "th"),
        ),
    ),
)
# What prompts are about: to choose by, and to judge by.
CHOOSING = ("king", "city", "father", "river", "sword", "night", "law", "horse")
JUDGING = ("queen", "house", "brother", "sea", "crown", "day", "war", "ship")


def passages(text: str, pattern: str) -> list[str]:
    """Stretches of a text, up to their last blank, in which the pattern is; as far apart as may be.

    Raises ValueError where there are fewer than two.
    """
    cut = (text[i : i + LENGTH] for i in range(0, len(text) - LENGTH, LENGTH))
    found = [part[: part.rfind(" ") + 1] for part in cut if re.search(pattern, part, re.DOTALL)]
    if len(found) < 2:
        raise ValueError(f"the held-out text has {len(found)} passage(s) with {pattern!r}, fewer than 2")
    return [found[i * len(found) // PASSAGES] for i in range(PASSAGES)]


def steered(behaviour: Behaviour, model: Any, data: Any) -> tuple[list[Row], list[Row]]:
    """A row for each kind of place, at the block and the multiplier that were chosen; and rows of all its
    multipliers. Also what passages do that stand in front of the prompts."""
    vocabulary, text = data.vocabulary, data.vocabulary.decode(data.valid.tolist())
    shown, lacking = passages(text, behaviour.shows), passages(text, behaviour.lacks)
    whole = encode_pairs([("", *pair) for pair in zip(shown, lacking, strict=True)], vocabulary.encode)
    vectors = contrast(model, whole, readable(model), at="answer")
    choosing, judging = (
        encode_pairs(behaviour.prompts(about), vocabulary.encode) for about in (CHOOSING, JUDGING)
    )
    best = _chosen(sweep(model, choosing, vectors, [dose for dose in DOSES if dose >= 0]))
    made = {on: _doses(model, judging, vectors, on, block, data) for on, (block, _) in best.items()}
    nothing = next(iter(made.values()))[0.0]._asdict() | {"on": "nothing", "block": None, "multiplier": None}
    rows = [*_told(model, judging, whole), nothing]
    for on, (_, multiplier) in best.items():
        dose = made[on][multiplier]
        rows.append(dose._asdict() | {"p of signs": by_chance(model, judging, vectors, dose, DRAWN)})
    doses = [dose._asdict() for found in made.values() for dose in found.values()]
    printed, all_doses = ([{"behaviour": behaviour.name, **row} for row in kept] for kept in (rows, doses))
    return printed, all_doses


def _doses(
    model: Any, judging: Sequence[Pair], vectors: dict[Place, Tensor], on: str, block: int, data: Any
) -> dict[float, Dose]:
    """By multiplier, of the places `on` of one block; with text that is written so."""
    places = [Place(kind, block) for kind in on.split("+")]
    writing = Writing(WRITTEN, data.vocabulary.count_bytes, len(judging))
    made = sweep(model, judging, {place: vectors[place] for place in places}, DOSES, writing)
    return {dose.multiplier: dose for dose in made if dose.on == on}


def _chosen(doses: Sequence[Dose]) -> dict[str, tuple[int, float]]:
    """For each kind of place block and multiplier of the largest change upwards.

    Of those that leave both answers together at least half as likely as no steering does, where there are
    any: else a model that was ruined would be chosen, to which all answers are alike.
    """
    sane = min(dose.nonsense for dose in doses if dose.multiplier == 0)

    def worth(dose: Dose) -> tuple[bool, float]:
        return 1 - dose.nonsense >= KEPT * (1 - sane), dose.change

    upwards = [dose for dose in doses if dose.multiplier > 0]
    best = {
        on: max((dose for dose in upwards if dose.on == on), key=worth)
        for on in dict.fromkeys(dose.on for dose in upwards)
    }
    return {on: (dose.block, dose.multiplier) for on, dose in best.items()}


def _told(model: Any, judging: Sequence[Pair], whole: Sequence[Pair]) -> Iterator[Row]:
    """Whether the model has the behaviour: its answers behind passages of either kind, unsteered."""
    before = answers(model, judging, {}, 0.0).share
    for name, side in (("text that shows it", 1), ("text that does not", 2)):
        pairs = [
            pair._replace(prompt=[*whole[i % len(whole)][side], *pair.prompt])
            for i, pair in enumerate(judging)
        ]
        after = answers(model, pairs, {}, 0.0)
        moved = zip(("change", "low", "high", "p"), change(before, after.share), strict=True)
        nonsense = float(after.nonsense.mean())
        yield {"on": name, "matching": float(after.share.mean()), **dict(moved), "nonsense": nonsense}
