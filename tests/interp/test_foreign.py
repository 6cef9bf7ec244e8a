"""Models of transformers have the places that ours have, and states that can be set."""

from typing import Any

import pytest
import torch
from torch import Tensor

from interop.peers import PEERS
from interop.peers import tokens as drawn
from interop.twins import build
from recurra import accelerate, from_transformers, language_model
from recurra.interop.causal_lm import wrap
from recurra.interp import Place, intervene, record, states_at, subject
from tools import close

EPS = 2000.0  # fp32 on two ways, through norms of numbers that nearly cancel
peers = pytest.mark.parametrize("name", PEERS)


def places(model: Any, *kinds: str) -> list[Place]:
    return [Place(kind, i) for kind in kinds for i in range(len(subject(model).blocks))]


@peers
@torch.no_grad()
def test_the_places_of_our_model_of_the_same_weights(name: str, tmp_path: Any) -> None:
    theirs = PEERS[name].saved(tmp_path)
    ours, x = from_transformers(tmp_path), drawn()
    same = places(ours, "block", "layer")
    with record(theirs, same) as there:
        theirs(x, use_cache=False)
        with record(ours, same) as here:
            ours(x)
    for place in same:
        got, want = there[place][0].float(), here[place][0]
        if place.kind == "layer":  # where queries share keys, ours has the heads in another order
            got, want = got.sort(-1).values, want.sort(-1).values
        close(got, want, EPS)
    hidden = there[Place("block", 1)][0]
    close(subject(theirs).head(hidden), subject(ours).head(hidden), EPS)
    assert subject(theirs).unembedding.equal(subject(ours).unembedding)


@peers
@torch.no_grad()
def test_states_are_read_and_set(name: str) -> None:
    model, x = PEERS[name].made(), drawn()
    whole = subject(model)
    want, end = whole.read(x)
    close(want, model(x, use_cache=False).logits, EPS)
    middle, last, _ = states_at(model, x, [4, 8, 5])  # a step in between
    kept = [[part.clone() for part in state] for state in middle]
    logits, after = whole.read(x[:, 5:], middle)
    close(logits, want[:, 5:], EPS)
    for one, other in ((after, end), (last, end), (kept, middle)):
        for parts in zip(one, other, strict=True):
            for a, b in zip(*parts, strict=True):
                close(a.float(), b.float(), EPS)


@peers
@torch.no_grad()
def test_edits(name: str) -> None:
    model, x = PEERS[name].made(), drawn()
    want, _ = subject(model).read(x)
    for kind in ("block", "layer", "state"):
        with intervene(model, Place(kind, 0), lambda value: value):
            assert subject(model).read(x)[0].equal(want)
        assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())
    for kind in ("block", "layer"):

        def edit(value: Tensor) -> Tensor:
            return value + torch.arange(value.shape[-1]) * (torch.arange(9) == 4)[:, None]

        before, after = places(model, kind)[:1], places(model, "block")
        with record(model, before + after) as old:
            subject(model).read(x)
        with intervene(model, Place(kind, 0), edit), record(model, before + after) as new:
            changed, _ = subject(model).read(x)
        close(new[before[0]][0], edit(old[before[0]][0]), EPS)
        assert changed[:, :4].equal(want[:, :4])
        assert not changed[:, 4].equal(want[:, 4])


@peers
@torch.no_grad()
def test_an_edited_state_goes_on(name: str) -> None:
    model, x = PEERS[name].made(), drawn()
    whole = subject(model)
    _, state = whole.read(x[:, :5])
    _, other = whole.read(x[:, 1:6])
    want, _ = whole.read(x[:, 5:], (state[0], other[1], *state[2:]))
    with intervene(model, Place("state", 1), lambda _: other[1]):
        _, mixed = whole.read(x[:, :5])
    assert whole.read(x[:, 5:], mixed)[0].equal(want)
    with (
        intervene(model, Place("state", 1), lambda value: value),
        pytest.raises(ValueError, match="use_cache must be True for the state of block 1"),
    ):
        model(x, use_cache=False)


@pytest.mark.parametrize("name", ["mamba", "rwkv", "xlstm"])
@torch.no_grad()
def test_accelerated(name: str) -> None:
    model, x = PEERS[name].made(), drawn()
    every = places(model, "block", "layer")
    with record(model, every) as plain:
        want, _ = subject(model).read(x)
    with accelerate(model), record(model, every) as fast:
        subject(model).read(x)
        _, state = subject(model).read(x[:, :5])
        logits, _ = subject(model).read(x[:, 5:], state)
    for place in every:
        close(fast[place][0], plain[place][0], EPS)
    close(logits, want[:, 5:], EPS)


@pytest.mark.parametrize("name", ["mamba", "rwkv", "xlstm"])
@torch.no_grad()
def test_an_edit_in_the_midst_of_accelerated_steps(name: str) -> None:
    model, x = build(name), torch.randint(40, (1, 9))
    place, steps = Place("layer", 1), []

    def last(calls: int) -> Tensor:
        """The logits of a token behind a cache and some calls more, under an edit."""
        cache = model(x, use_cache=True)
        name = "state" if "state" in cache else "cache_params"
        for i in range(calls):
            cache = model(x[:, i : i + 1], use_cache=True, **{name: cache[name]})
        with intervene(model, place, torch.neg):
            logits: Tensor = model(x[:, :1], use_cache=True, **{name: cache[name]}).logits
            return logits

    for calls in (0, 3):
        want = last(calls)
        with accelerate(model):
            steps.append((last(calls), want))
    for got, want in steps:
        close(got, want, EPS)


@torch.no_grad()
def test_ours_in_the_dress_of_transformers() -> None:
    inner, x = language_model("mingru", 23, 8, 2).eval(), drawn()
    place = Place("layer", 1)
    with intervene(wrap(inner), place, torch.neg):
        want, _ = inner(x)
        written = wrap(inner).generate(x, max_new_tokens=4, do_sample=False)
        again = torch.stack(list(inner.generate(x, 4, temperature=0)), 1)
    assert not want.equal(inner(x)[0])
    assert written[:, x.shape[1] :].equal(again)
