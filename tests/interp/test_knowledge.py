"""Eliciting what a model knows: what is read of statements, and what probes tell of it, by definition."""

from typing import Any

import pytest
import torch
from torch import Tensor

from interop.peers import PEERS
from recurra import language_model
from recurra.blocks import BLOCKS
from recurra.interp import (
    Found,
    Place,
    Statements,
    auroc,
    chosen,
    disputed,
    elicit,
    read_statements,
    readable,
    record,
    subject,
)
from recurra.interp.states import vector
from recurra.tasks.quirky.additions import Additions
from recurra.tasks.quirky.common import CONTEXTS
from recurra.tasks.sampled import TEST
from tools import close, wake

VOCABULARY, DEPTH, ANSWERS = 23, 2, (3, 5)
LOOSE = {"mlstm": 1000.0, "xlstm_large": 1000.0}
# Whether a statement is true is its second token; the last one is the same for all.
END, FALSE, TRUE = 6, 7, 8


def build(name: str) -> Any:
    torch.manual_seed(1)
    if name.startswith("peer "):
        return PEERS[name.removeprefix("peer ")].made()
    return wake(language_model(name, VOCABULARY, 8, DEPTH)).eval()


def statements(count: int, seed: int = 0, bob: bool = False, lengths: tuple[int, ...] = (5, 6)) -> Statements:
    """Texts of several lengths; Bob says of everything the opposite of what is true."""
    draw = torch.Generator().manual_seed(seed)
    true = torch.rand(count, generator=draw) < 0.5
    texts = []
    for i, one in enumerate(true.tolist()):
        rest = torch.randint(9, VOCABULARY, (lengths[i % len(lengths)] - 3,), generator=draw).tolist()
        texts.append([int(bob), TRUE if one else FALSE, *rest, END])
    return Statements(texts, true, true ^ bob)


@pytest.mark.parametrize("name", [*BLOCKS, *(f"peer {name}" for name in PEERS)])
@torch.no_grad()
def test_what_is_read_is_what_each_statement_alone_leaves(name: str) -> None:
    model = build(name)
    whole, asked = subject(model), statements(5)
    places = readable(model)
    assert [place for place in places if place.kind == "block"] == [
        Place("block", i) for i in range(len(whole.blocks))
    ]
    reading = read_statements(model, asked, places, ANSWERS)
    assert reading.true is asked.true
    for i, text in enumerate(asked.tokens):
        alone, logits = ends(whole, places, list(text))
        sides = [ends(whole, places, [*text, answer])[0] for answer in ANSWERS]
        for place in places:
            allowed = LOOSE.get(name, 300.0)
            close(reading.values[place][i], alone[place], allowed)
            close(reading.pairs[place][i], torch.cat([side[place] for side in sides]), allowed)
        close(reading.answer[i], (logits[5] - logits[3]).double(), 1e12)


def ends(whole: Any, places: list[Place], text: list[int]) -> tuple[dict[Place, Tensor], Tensor]:
    """Values at the last token, and the logits there."""
    with record(whole, [place for place in places if place.kind == "block"]) as seen:
        logits, state = whole.read(torch.tensor([text]))
    found = {place: calls[0][0, -1].float() for place, calls in seen.items()}
    found |= {p: vector(whole.named(state[p.block]))[0] for p in places if p.kind == "state"}
    return found, logits[0, -1]


@pytest.mark.parametrize("name", BLOCKS)
def test_what_a_statement_says_is_found_whoever_says_it(name: str) -> None:
    """What makes it true is a token that every model holds, trained or not; who speaks is another."""
    model, lengths = build(name), (4,)
    tests = {"Alice": statements(100, 1, lengths=lengths), "Bob": statements(100, 2, True, lengths)}
    train = statements(200, 3, lengths=lengths)
    made = elicit(model, train, tests, "Alice", readable(model), ("difference", "lda"), ANSWERS)
    best = max(made.found, key=lambda one: one.aurocs["Bob"])
    assert best.aurocs["Bob"] > 0.95
    assert best.aurocs["Alice"] > 0.95
    assert len(made.found) == 2 * len(readable(model))
    for one in made.found:
        assert one.ceiling == made.model["Alice"]
        gap = one.ceiling - made.model["Bob"]
        want = (one.aurocs["Bob"] - made.model["Bob"]) / gap if gap > 0 else None
        assert one.recovered == want
    answers = read_statements(model, tests["Bob"], [], ANSWERS).answer
    assert made.model["Bob"] == auroc(answers, tests["Bob"].true)


def test_what_is_disputed() -> None:
    """Of Bob where he is wrong, of Alice all."""
    for context in CONTEXTS:
        made = Additions().in_context(TEST, context, 2, 60)
        kept = disputed(made)
        assert len(kept.tokens) == len(kept.true) == len(kept.said)
        if context.bob:
            assert (kept.true != kept.said).all()
            rows = (made.true != made.said).nonzero()[:, 0]
            assert torch.stack(list(kept.tokens)).equal(torch.as_tensor(made.tokens)[rows])  # type: ignore[arg-type]
        else:
            assert kept.true.equal(made.true)


def test_the_first_good_block_is_chosen() -> None:
    """By the first test alone."""
    rows = [(0.7, 0.9), (0.89, 0.3), (0.9, 1.0), (0.6, 0.2)]
    found = [Found("lda", "block", i, {"a": a, "b": b}, 1.0, None) for i, (a, b) in enumerate(rows)]
    worse = [Found("lda", "state", i, {"a": a}, 1.0, None) for i, a in enumerate((0.3, 0.4, 0.2))]
    assert chosen([*found, *worse]) == [found[1], worse[1]]


def test_attention_has_no_state_to_read() -> None:
    assert {place.kind for place in readable(build("transformer"))} == {"block"}
    assert readable(build("mingru"), ["state", "layer"], [1, 1]) == [Place("state", 1), Place("layer", 1)]


def test_errors_name_the_argument() -> None:
    model, asked = build("mingru"), statements(20)
    places = readable(model)
    with pytest.raises(ValueError, match="block must be below 2"):
        readable(model, blocks=[2])
    with pytest.raises(ValueError, match="kind must be one of block, layer, state, got 'head'"):
        readable(model, ["head"])
    with pytest.raises(ValueError, match=r"probes must be of logistic, .*, got 'pca'"):
        elicit(model, asked, {"a": asked}, "a", places, ["pca"])
    with pytest.raises(ValueError, match="places must hold at least one"):
        elicit(model, asked, {"a": asked}, "a", readable(build("transformer"), ["state"]))
    with pytest.raises(ValueError, match="ceiling must be one of the tests a, b, got 'c'"):
        elicit(model, asked, {"a": asked, "b": asked}, "c", places)
    none = asked._replace(true=torch.zeros(20, dtype=torch.bool), said=torch.zeros(20, dtype=torch.bool))
    with pytest.raises(ValueError, match="train must hold true and false statements, got 0 true of 20"):
        elicit(model, none, {"a": asked}, "a", places)
    with pytest.raises(ValueError, match="state must be of one size"):
        read_statements(build("transformer"), asked, [Place("state", 0)], ANSWERS)
