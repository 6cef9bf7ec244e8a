"""What states keep, and for how long: products of gates, Jacobians, and states put into other runs."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from interop.peers import PEERS
from recurra import language_model
from recurra.blocks import BLOCKS
from recurra.interp import (
    Place,
    decays,
    distance,
    graft,
    half_life,
    intervene,
    state_jacobian,
    states_at,
    survival,
    trace,
)
from recurra.state import SoftmaxState
from tools import close, wake

VOCABULARY, BATCH, TIME, DEPTH = 11, 2, 7, 2
RECURRENT = [name for name in BLOCKS if name != "transformer"]
GATED = ["mingru", "minlstm", "mamba", "rwkv4", "rwkv5", "mlstm", "xlstm_large"]
SMALL: dict[str, dict[str, Any]] = {"mlstm": {"expansion": 0.1, "heads": 16}, "s4": {"states": 4}}


def build(name: str) -> Any:
    options = {**SMALL.get(name, {}), **({"states": 4} if name == "s4d" else {})}
    if name == "mamba":
        options = {"state": 3}
    return wake(language_model(name, VOCABULARY, 4, DEPTH, options=options)).eval()


def drawn() -> Tensor:
    return torch.randint(VOCABULARY, (BATCH, TIME))


def _expected(name: str, state: Any, factors: Tensor) -> Tensor:
    """The diagonal of the Jacobian that a product of gates is, in the order of the state's numbers."""
    left = survival(factors, 2)[:, 3]
    if name == "rwkv5":  # of keys, the same for every value
        return left.view(BATCH, *state.memory.c.shape[1:3])[..., None].expand(state.memory.c.shape).flatten(1)
    return left.flatten(1)


@pytest.mark.parametrize("name", ["mingru", "minlstm", "mamba", "rwkv5"])
def test_the_jacobian_is_the_product_of_the_gates(name: str) -> None:
    model, tokens = build(name), drawn()
    for block, factors in enumerate(decays(model, tokens)):
        assert factors is not None
        got = state_jacobian(model, tokens, block, 2, 5)
        state = model(tokens)[1][block]
        close(got, _expected(name, state, factors).diag_embed(), 200)


def _inner(state: Any) -> Any:
    """The sums of a block, in the units of their max."""
    return getattr(state, "memory", getattr(state, "average", state))


def _with(state: Any, inner: Any) -> Any:
    """The block's state with other sums."""
    field = next((name for name in ("memory", "average") if hasattr(state, name)), None)
    return state._replace(**{field: inner}) if field else inner


def _sums(state: Any) -> Tensor:
    """The same in units of one."""
    inner = _inner(state)
    if isinstance(inner, SoftmaxState):
        return inner.numerator * inner.max.exp()
    return inner.c * inner.max.exp()[..., None, None]


@pytest.mark.parametrize("name", ["mlstm", "xlstm_large", "rwkv4"])
def test_factors_are_those_of_the_sums(name: str) -> None:
    """Two starts, the same tokens: what they differ by is left as the factors say."""
    model, tokens = build(name), drawn()
    (begin,) = states_at(model, tokens, [2])
    for block, factors in enumerate(decays(model, tokens)):
        assert factors is not None
        inner = _inner(begin[block])
        field = "numerator" if name == "rwkv4" else "c"
        lifted = _with(begin[block], inner._replace(**{field: getattr(inner, field) + 1}))
        other = tuple(lifted if i == block else state for i, state in enumerate(begin))
        starts = begin[block], other[block]
        ends = [model(tokens[:, 3:6], state)[1][block] for state in (begin, other)]
        first, last = (_sums(b) - _sums(a) for a, b in (starts, ends))
        left = survival(factors, 2)[:, 3]
        close(last, (left if name == "rwkv4" else left[..., None, None]) * first, 3e4)


@pytest.mark.parametrize("name", RECURRENT)
def test_jacobians_chain(name: str) -> None:
    model, tokens = build(name), drawn()
    one, two = (state_jacobian(model, tokens, 1, *steps) for steps in ((1, 3), (3, 5)))
    close(two @ one, state_jacobian(model, tokens, 1, 1, 5), 2000)


@pytest.mark.parametrize("name", GATED)
def test_half_lives(name: str) -> None:
    for factors in decays(build(name), drawn()):
        assert factors is not None
        assert factors.shape[:2] == (BATCH, TIME)
        assert ((factors > 0) & (factors <= 1)).all()
        lives = half_life(factors)
        assert lives.shape == factors.shape[2:]
        close((factors.log().mean((0, 1)) * lives).exp(), torch.full_like(lives, 0.5), 200)


def test_what_has_no_gates_says_so() -> None:
    assert decays(build("gru"), drawn()) == [None, None]
    assert half_life(torch.tensor([[[1.0, 0.5, 0.0]]])).tolist() == [math.inf, 1.0, 0.0]
    mixed = language_model(["mingru", "transformer"], VOCABULARY, 4)
    assert [factors is None for factors in decays(mixed, drawn())] == [False, True]


def test_two_texts_come_together_as_the_gates_forget() -> None:
    """Of one block of minGRU: after the same tokens states differ by as much as is left."""
    model = language_model("mingru", VOCABULARY, 4, 1, options={"conv": 0}).eval()
    one, other = drawn(), drawn()
    other[:, 3:] = one[:, 3:]
    (factors,) = decays(model, one)
    assert factors is not None
    with torch.no_grad():
        begins, ends = ([states_at(model, x, [2, 6])[i] for x in (one, other)] for i in (0, 1))
        apart = [a[0].layer.h - b[0].layer.h for a, b in (begins, ends)]
    close(apart[1], survival(factors, 2)[:, -1] * apart[0], 200)
    assert (distance(model, *ends) < distance(model, *begins)).all()


@pytest.mark.parametrize("name", BLOCKS)
@torch.no_grad()
def test_tracing(name: str) -> None:
    model, tokens, donor = build(name), drawn(), drawn()
    donor[:, 3:] = tokens[:, 3:]

    def metric(logits: Tensor) -> Tensor:
        return logits.log_softmax(-1)[:, 3]

    want, end = (metric(model(x)[0][:, -1]) for x in (tokens, donor))
    made = trace(model, tokens, donor, [0, 4], metric)
    assert made.shape == (DEPTH, 2, BATCH)
    itself = trace(model, tokens, tokens, [0, 4], metric)
    close(itself, want.expand_as(itself), 400)
    # As an edit of the state at that place has it.
    states = states_at(model, donor, [4])[0]
    with intervene(model, Place("state", 1), lambda _: states[1]):
        _, mixed = model(tokens[:, :5])
    close(made[1, 1], metric(model(tokens[:, 5:], mixed)[0][:, -1]), 400)
    # The states of all blocks are all there is.
    whole = graft(states_at(model, tokens, [4])[0], states, range(DEPTH))
    close(metric(model(tokens[:, 5:], whole)[0][:, -1]), end, 400)


def test_errors_name_the_argument() -> None:
    model, tokens = build("mingru"), drawn()
    with pytest.raises(ValueError, match=r"start < end must lie in 0\.\.6, got 3 and 3"):
        state_jacobian(model, tokens, 0, 3, 3)
    with pytest.raises(ValueError, match=r"block must lie in 0\.\.1, got 2"):
        state_jacobian(model, tokens, 2, 0, 3)
    with pytest.raises(ValueError, match="block must be recurrent"):
        state_jacobian(build("transformer"), tokens, 0, 0, 3)
    with pytest.raises(ValueError, match=r"start must lie in 0\.\.6, got 7"):
        survival(torch.ones(2, 7, 1), 7)
    with pytest.raises(TypeError, match=r"model must be of recurra \(see from_transformers\), got Mamba"):
        decays(PEERS["mamba"].made(), tokens)
    with pytest.raises(ValueError, match=r"positions must lie in 0\.\.5, got 6"):
        trace(model, tokens, tokens, [6], torch.Tensor.sum)
    with pytest.raises(ValueError, match=r"donor must be like tokens, \[2, 7\], got \[2, 6\]"):
        trace(model, tokens, tokens[:, 1:], [0], torch.Tensor.sum)
    with pytest.raises(ValueError, match=r"blocks must lie in 0\.\.1, got 2"):
        graft(model(tokens)[1], model(tokens)[1], [2])
