"""Every place of every model: one value in forward and step, and edits that change what follows alone."""

from typing import Any

import pytest
import torch
from torch import Tensor

from recurra import language_model
from recurra.blocks import BLOCKS
from recurra.blocks.table import configurable
from recurra.interp import Place, intervene, record, states_at
from recurra.interp.subject import KINDS
from recurra.models.stepper import RecordedStepper, stepper
from tools import close, same_state, wake

BATCH, TIME, DEPTH, VOCABULARY = 2, 9, 3, 23
PLACES = [Place(kind, block) for kind in KINDS for block in range(DEPTH)]
every = pytest.mark.parametrize("name", BLOCKS)
# Without an MLP the product behind the layer is fused with the residual.
BARE = [f"{name} bare" for name, row in BLOCKS.items() if "mlp" in configurable(row)]
both = pytest.mark.parametrize("name", [*BLOCKS, *BARE])
# Norms lift what a head reads: see the laws of the blocks.
LOOSE = {"mlstm": 400.0, "xlstm_large": 400.0, "xlstm_large bare": 400.0}


def build(name: str) -> Any:
    name, _, bare = name.partition(" ")
    return wake(language_model(name, VOCABULARY, 8, DEPTH, options={"mlp": 0.0} if bare else None)).eval()


def drawn() -> Tensor:
    return torch.randint(VOCABULARY, (BATCH, TIME))


def stepped(model: Any, tokens: Tensor) -> Tensor:
    """Logits of one token after the other."""
    state, logits = None, []
    for token in tokens.unbind(1):
        y, state = model.step(token, state)
        logits.append(y)
    return torch.stack(logits, 1)


def untouched(model: Any) -> bool:
    hooks = any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())
    return not hooks and not any("step" in vars(m) for m in model.modules())


@both
@torch.no_grad()
def test_the_same_in_forward_and_step(name: str) -> None:
    model, tokens = build(name), drawn()
    with record(model, PLACES) as whole:
        model(tokens)
    with record(model, PLACES) as steps:
        stepped(model, tokens)
    for place in PLACES:
        (value,) = whole[place]
        assert len(steps[place]) == TIME
        if place.kind == "state":
            same_state(steps[place][-1], value, LOOSE.get(name))
        else:
            close(torch.stack(steps[place], 1), value, LOOSE.get(name))


@every
@torch.no_grad()
def test_a_block_gives_what_the_next_one_reads(name: str) -> None:
    model, tokens = build(name), drawn()
    with record(model, PLACES) as seen:
        logits, _ = model(tokens)
    x = model.embed(tokens)
    for i, block in enumerate(model.blocks):
        x, end = block(x)
        assert seen[Place("block", i)][0].equal(x)
        same_state(seen[Place("state", i)][0], end, 0)
    assert model.head(x).equal(logits)


def test_the_layer_of_a_mingru_is_its_hidden_state() -> None:
    model = build("mingru")
    with record(model, [Place("layer", 1), Place("state", 1)]) as seen:
        model(drawn())
    assert seen[Place("layer", 1)][0][:, -1].equal(seen[Place("state", 1)][0].layer.h)


@both
@torch.no_grad()
def test_an_edit_changes_what_follows_and_nothing_else(name: str) -> None:
    model, tokens, at = build(name), drawn(), 4
    with record(model, PLACES) as before:
        logits, _ = model(tokens)
    for kind in ("block", "layer"):

        def edit(value: Tensor) -> Tensor:
            value = value.clone()
            value[:, at] += torch.ones(value.shape[-1]).cumsum(0)
            return value

        with intervene(model, Place(kind, 1), edit), record(model, PLACES) as after:
            changed, _ = model(tokens)
        for other in (Place("block", 0), Place("layer", 0), Place("block", 1), Place("block", 2)):
            old, new = before[other][0], after[other][0]
            assert new[:, :at].equal(old[:, :at])
            assert new.equal(old) == (other.block == 0)
        # At a block what other positions hold there stays as it is.
        now = after[Place(kind, 1)][0]
        assert now[:, at + 1 :].equal(before[Place(kind, 1)][0][:, at + 1 :])
        close(now[:, at], edit(before[Place(kind, 1)][0])[:, at])
        assert changed[:, :at].equal(logits[:, :at])
        assert not changed[:, at].equal(logits[:, at])


@both
@torch.no_grad()
def test_edits_act_in_steps_as_in_forward(name: str) -> None:
    model, tokens = build(name), drawn()
    for kind in ("block", "layer"):
        with intervene(model, Place(kind, 1), lambda x: x * 0.5 + x.roll(1, -1)):
            want, _ = model(tokens)
            close(stepped(model, tokens), want, LOOSE.get(name))


@every
@torch.no_grad()
def test_an_edited_state_goes_on(name: str) -> None:
    model, tokens = build(name), drawn()
    _, state = model(tokens[:, :5])
    _, other = model(tokens[:, 1:6])
    want, _ = model(tokens[:, 5:], (state[0], other[1], state[2]))
    with intervene(model, Place("state", 1), lambda _: other[1]):
        _, mixed = model(tokens[:, :5])
    got, _ = model(tokens[:, 5:], mixed)
    assert got.equal(want)


@every
@torch.no_grad()
def test_the_identity_changes_nothing_and_nothing_stays(name: str) -> None:
    model, tokens = build(name), drawn()
    want, steps = model(tokens)[0], stepped(model, tokens)
    with pytest.raises(KeyError, match="on the way"), record(model, PLACES):  # noqa: PT012
        assert model(tokens)[0].equal(want)
        assert stepped(model, tokens).equal(steps)
        assert not untouched(model)
        raise KeyError("on the way")
    assert untouched(model)
    assert model(tokens)[0].equal(want)


def test_contexts_may_end_in_any_order() -> None:
    model, tokens, place = build("mingru"), drawn(), Place("block", 1)
    first, second = (intervene(model, place, lambda x, by=by: x + by) for by in (1.0, 2.0))
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    with intervene(build("mingru"), place, lambda x: x):  # of another model
        alone = stepped(model, tokens)
    second.__exit__(None, None, None)
    with intervene(model, place, lambda x: x + 2.0):
        assert stepped(model, tokens).equal(alone)
    assert untouched(model)


@every
@torch.no_grad()
def test_states_at_positions_are_those_of_prefixes(name: str) -> None:
    model, tokens = build(name), drawn()
    _, begin = model(drawn())
    positions = [7, 0, 3, 3]
    for first in (None, begin):
        for p, state in zip(positions, states_at(model, tokens, positions, first), strict=True):
            same_state(state, model(tokens[:, : p + 1], first)[1], LOOSE.get(name))


@every
def test_generation_takes_the_ordinary_step(name: str) -> None:
    """From the first token or in its midst: a recording would miss the edit."""
    model, prompt = build(name), drawn()
    place, edit = Place("layer", 1), torch.neg

    def greedy() -> Any:
        return model.generate(prompt, 6, temperature=0)

    def steps(state: Any, token: Tensor, count: int) -> list[Tensor]:
        tokens = []
        for _ in range(count):
            logits, state = model.step(token, state)
            token = logits.argmax(-1)
            tokens.append(token)
        return tokens

    with torch.no_grad():
        begun = greedy()
        first = [next(begun), next(begun)]
        _, state = model(torch.cat([prompt, first[0][:, None]], 1))
        with intervene(model, place, edit):
            assert all(map(Tensor.equal, [next(begun), next(begun)], steps(state, first[1], 2)))
        with intervene(model, place, edit):
            logits, state = model(prompt)
            want = [logits[:, -1].argmax(-1)]
            want += steps(state, want[0], 5)
            assert all(map(Tensor.equal, list(greedy()), want))


@torch.no_grad()
def test_hooks_of_others_leave_a_recording_alone() -> None:
    model, other = build("mingru"), build("mingru")
    step = stepper(model, model(drawn())[1])
    recorded = type(step) is RecordedStepper
    with record(other, PLACES):
        assert not step.stale
    with record(model, PLACES):
        assert step.stale == recorded


def test_errors_name_the_argument() -> None:
    model = build("mingru")
    with pytest.raises(ValueError, match=r"kind must be one of block, layer, state, got 'head'"):
        Place("head", 0)
    with pytest.raises(ValueError, match=r"block must not be negative, got -1"):
        Place("block", -1)
    with pytest.raises(ValueError, match=r"block must be below 3"), record(model, [Place("block", 3)]):
        pass
    with (
        intervene(model, Place("block", 0), lambda x: x[..., :1]),
        pytest.raises(ValueError, match="function must return a value like the one it was given"),
    ):
        model(drawn())
    with pytest.raises(ValueError, match=r"positions must lie in 0\.\.8, got 9"):
        states_at(model, drawn(), [0, 9])
    with pytest.raises(
        TypeError, match=r"SequenceModel or of transformers' MambaForCausalLM, .*, got Linear"
    ):
        states_at(torch.nn.Linear(1, 1), drawn(), [0])
