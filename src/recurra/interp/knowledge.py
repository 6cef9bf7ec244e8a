"""What a model knows and does not say: probes trained where the truth is told, tried where it is not.

As in "Eliciting Latent Knowledge from Quirky Language Models" (arXiv 2312.01037), which "Does Transformer
Interpretability Transfer to RNNs?" (arXiv 2404.05971) does to recurrent models. To read their states is ours.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from recurra.interp.pairs import alike
from recurra.interp.places import record, subject
from recurra.interp.probes import PROBES, auroc
from recurra.interp.states import sketched, vector
from recurra.interp.subject import Place, State, Subject
from recurra.state import grows
from recurra.tasks.quirky.common import NO, YES, Statements

__all__ = ["Elicited", "Found", "Reading", "chosen", "disputed", "elicit", "read_statements", "readable"]

# Of what the best block tells where probes are trained, a good one tells so much.
_GOOD = 0.95
Values = dict[Place, Tensor]


class Reading(NamedTuple):
    """Of N statements: at each place the values where the answer is due, [N, D], and those after No and after
    Yes, [N, 2 D]; the model's own answer, log p(yes) - log p(no), [N]; and whether they are true, [N]."""

    values: Values
    pairs: Values
    answer: Tensor
    true: Tensor


class Found(NamedTuple):
    """A probe `on` the block, layer or state of one block, and its AUROC for what is true, a number a test.

    ceiling: of the model's own answers where it says what is true; recovered: (probe - model) / (ceiling -
    model) in the last test, the performance gap recovered (arXiv 2312.09390, section 3, of accuracies; of
    AUROC in arXiv 2312.01037, whose code takes probes on the last block in the place of answers), None where
    the model itself is at the ceiling.
    """

    probe: str
    on: str
    block: int
    aurocs: dict[str, float]
    ceiling: float
    recovered: float | None


class Elicited(NamedTuple):
    """AUROC of the model's own answers for what is true, a number a test, and what the probes found."""

    model: dict[str, float]
    found: list[Found]


def readable(
    model: Any, kinds: Iterable[str] = ("block", "state"), blocks: Sequence[int] | None = None
) -> list[Place]:
    """The places of these kinds and blocks, but for the states of attention, which have no fixed size.

    blocks: None, or none, for all of them. Raises ValueError for one that there is not.
    """
    whole = subject(model)
    places = [
        Place(kind, block) for kind in kinds for block in sorted(set(blocks or range(len(whole.blocks))))
    ]
    for place in places:
        whole.block(place)
    with torch.no_grad():
        _, state = whole.read(torch.zeros(1, 1, dtype=torch.int64, device=whole.unembedding.device))
    grown = {Place("state", block) for block, part in enumerate(state) if grows(whole.named(part))}
    return [place for place in places if place not in grown]


def disputed(statements: Statements) -> Statements:
    """Those of which the speaker does not say what is true; all, where there are none."""
    apart = statements.said != statements.true
    rows = (apart if apart.any() else ~apart).nonzero()[:, 0].tolist()
    texts: Any = statements.tokens
    return Statements([texts[i] for i in rows], statements.true[rows], statements.said[rows])


def read_statements(
    model: Any,
    statements: Statements,
    places: Sequence[Place],
    answers: tuple[int, int] = (NO, YES),
) -> Reading:
    """What the places hold of statements, those of one length read together; answers go on from their state.

    Of blocks and layers it is the last token, of states the end, as a `vector`, large ones `sketched`. Raises
    ValueError for a state of attention.
    """
    whole, parts, order = subject(model), list[Reading](), list[int]()
    for rows in alike(statements.tokens):
        texts = torch.stack([torch.as_tensor(statements.tokens[i]) for i in rows])
        values, pairs, answer = _answered(whole, places, texts.to(whole.unembedding.device), answers)
        parts.append(Reading(values, pairs, answer, statements.true[rows]))
        order += rows
    back = torch.tensor(order).argsort()

    def joined(name: str) -> Values:
        return {place: torch.cat([getattr(part, name)[place] for part in parts])[back] for place in places}

    answer = torch.cat([part.answer for part in parts])[back]
    return Reading(joined("values"), joined("pairs"), answer, statements.true)


@torch.no_grad()
def _answered(
    whole: Subject, places: Sequence[Place], tokens: Tensor, answers: tuple[int, int]
) -> tuple[Values, Values, Tensor]:
    """Values and pairs at places, and the model's own answer, of tokens [B, T]."""
    values, log_p, state = _read(whole, places, tokens, None)
    sides = [_read(whole, places, torch.full_like(tokens[:, :1], one), state)[0] for one in answers]
    pairs = {place: torch.cat([side[place] for side in sides], -1) for place in places}
    no, yes = answers
    return values, pairs, log_p[:, yes] - log_p[:, no]


def _read(
    whole: Subject, places: Sequence[Place], tokens: Tensor, state: State | None
) -> tuple[Values, Tensor, State]:
    """Values [B, D] after the last of tokens [B, T], log p of what comes next [B, V], and the state."""
    with record(whole, [place for place in places if place.kind != "state"]) as seen:
        logits, state = whole.read(tokens, state)
    # Transformers' RWKV takes a step row by row.
    values = {place: torch.cat([call[:, -1] for call in calls]) for place, calls in seen.items()}
    for place in places:
        if place.kind == "state":
            values[place] = sketched(vector(whole.named(state[place.block])))
    log_p = logits[:, -1].double().log_softmax(-1).cpu()
    return {place: value.float().cpu() for place, value in values.items()}, log_p, state


def _tried(probe: str, place: Place, train: Reading, tests: Mapping[str, Reading]) -> dict[str, float]:
    """AUROC, a number a test, of a probe trained at one place."""
    fit, pairs = PROBES[probe]

    def read(reading: Reading) -> Tensor:
        return (reading.pairs if pairs else reading.values)[place]

    direction = fit(read(train), train.true)
    return {name: auroc(read(test) @ direction, test.true) for name, test in tests.items()}


def elicit(
    model: Any,
    train: Statements,
    tests: Mapping[str, Statements],
    ceiling: str,
    places: Sequence[Place],
    probes: Sequence[str] = tuple(PROBES),
    answers: tuple[int, int] = (NO, YES),
    told: Callable[[str], None] = lambda said: None,
) -> Elicited:
    """Train probes for what is true of `train`, at each place; try them on what is disputed of the tests.

    tests: by name, the first one in the context of `train`; the last one is what it is about. ceiling: the
    name of that in which the model says what is true of the like. answers: the tokens of No and Yes. told is
    called with what is being done. Raises ValueError for no places, a probe or a ceiling that there is not,
    and statements that are all true or all false.
    """
    if unknown := [name for name in probes if name not in PROBES]:
        raise ValueError(f"probes must be of {', '.join(PROBES)}, got {unknown[0]!r}")
    if not places:
        raise ValueError("places must hold at least one that can be read; the state of attention can't")
    if ceiling not in tests:
        raise ValueError(f"ceiling must be one of the tests {', '.join(tests)}, got {ceiling!r}")
    kept = {name: disputed(statements) for name, statements in tests.items()}
    source, *judged = _all_read(model, [("train", train), *kept.items()], places, answers, told)
    named = dict(zip(kept, judged, strict=True))
    own = {name: auroc(one.answer, one.true) for name, one in named.items()}
    *_, last = named
    found, high, low = list[Found](), own[ceiling], own[last]
    for place in places:
        told(f"{place.kind} {place.block}: {', '.join(probes)}")
        for probe in probes:
            aurocs = _tried(probe, place, source, named)
            recovered = (aurocs[last] - low) / (high - low) if high > low else None
            found.append(Found(probe, place.kind, place.block, aurocs, high, recovered))
    return Elicited(own, found)


def _all_read(
    model: Any,
    sets: Sequence[tuple[str, Statements]],
    places: Sequence[Place],
    answers: tuple[int, int],
    told: Callable[[str], None],
) -> list[Reading]:
    """In their order. Raises ValueError for a set whose statements are all true or all false."""
    for name, (_, true, _) in sets:
        if not 0 < (count := int(true.sum())) < len(true):
            raise ValueError(f"{name} must hold true and false statements, got {count} true of {len(true)}")
    readings = []
    for name, statements in sets:
        told(f"read {name}: {len(statements.true)} statements")
        readings.append(read_statements(model, statements, places, answers))
    return readings


def chosen(found: Iterable[Found]) -> list[Found]:
    """Of each probe on each kind of place the first block whose AUROC - 1/2 in the first test is 95 % of the
    best one's: the choice of arXiv 2312.01037, in which the other tests have no part."""
    groups = defaultdict[tuple[str, str], list[Found]](list)
    for one in found:
        groups[one.on, one.probe].append(one)
    picked = []
    for group in groups.values():
        told = [next(iter(one.aurocs.values())) - 0.5 for one in group]
        least = min(_GOOD * max(told), max(told))
        picked.append(next(one for one, value in zip(group, told, strict=True) if value >= least))
    return picked
