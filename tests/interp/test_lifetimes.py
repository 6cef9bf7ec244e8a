"""How long a token lives: one measure by gates and by Jacobians, for every block or a reason why not."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from interop.peers import PEERS
from interop.peers import tokens as peers_tokens
from recurra import language_model
from recurra.blocks import BLOCKS
from recurra.interp import distance, half_life, lifetimes, state_jacobian, states_at, survival
from recurra.interp.lifetimes import apart, left, lives
from tools import close, wake

VOCABULARY, TIME, DEPTH = 11, 9, 2
GATED = {"mingru", "minlstm", "mamba", "rwkv4", "rwkv5", "mlstm", "xlstm_large", "s4d"}
BY_JACOBIAN = {"gru", "lstm"}
SMALL: dict[str, dict[str, Any]] = {
    "mamba": {"state": 3},
    "mlstm": {"expansion": 0.1, "heads": 16},
    "s4d": {"states": 4},
}
every = pytest.mark.parametrize("name", BLOCKS)


def build(name: str, depth: int = DEPTH) -> Any:
    return wake(language_model(name, VOCABULARY, 4, depth, options=SMALL.get(name))).eval()


def drawn(time: int = TIME) -> Tensor:
    return torch.randint(VOCABULARY, (1, time))


@every
def test_every_block_says_how_long_or_why_not(name: str) -> None:
    found = list(lives(build(name), drawn()))
    assert [life.name for life in found] == [name] * DEPTH
    for life in found:
        assert (life.factors is not None) == (name in GATED) == (not life.why)
        assert bool(life.left) == (name in GATED | BY_JACOBIAN)
        assert len(life.channels) == len(life.half_lives) == len(set(life.channels))
        assert life.factors is None or life.factors.shape == (TIME, len(life.channels))
        assert all(0 < share <= 1 for share in life.left.values() if name in GATED)


def test_channels_are_named_in_their_order() -> None:
    (life,) = lives(build("mamba", 1), drawn())
    assert life.factors is not None
    assert life.channels[:2] == ["0/0", "0/1"]
    assert life.channels[-1].startswith("2/")
    close(life.half_lives, half_life(life.factors[None]))


def test_what_is_left_is_that_of_each_start() -> None:
    factors = torch.rand(2, TIME, 3, 2)
    found = left(factors)
    assert list(found) == [1, 2, 4, 8]
    for d, share in found.items():
        starts = [factors[:, t : t + d].prod(1).square() for t in range(TIME - d + 1)]
        assert share == pytest.approx(float(torch.stack(starts).mean().sqrt()), rel=1e-5)
    forgotten = torch.tensor([[[1.0, 0.0]] * 4])
    assert left(forgotten) == pytest.approx({1: 0.5**0.5, 2: 0.5**0.5, 4: 0.5**0.5})


@pytest.mark.parametrize("name", ["mingru", "minlstm", "mamba", "rwkv5", "s4d"])
def test_gates_and_jacobians_measure_the_same(name: str) -> None:
    model, tokens = build(name, 1), drawn()
    (life,) = lives(model, tokens)
    assert life.factors is not None
    by_jacobian = lifetimes._left_by_jacobian(model, tokens, 0)
    assert list(by_jacobian) == [1, 2, 4]  # after token 2
    for d, share in by_jacobian.items():
        by_gates = survival(life.factors[None], 2)[:, d].square().mean().sqrt()
        assert share == pytest.approx(float(by_gates), rel=1e-4)


@pytest.mark.parametrize("name", sorted(BY_JACOBIAN))
def test_of_states_that_read_their_past(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model, tokens = build(name), drawn()
    for block, life in enumerate(lives(model, tokens)):
        jacobian = state_jacobian(model, tokens, block, 2, 4)
        want = float(jacobian.square().sum() / jacobian.shape[-1]) ** 0.5
        assert life.left[2] == pytest.approx(want, rel=1e-4)
    monkeypatch.setattr(lifetimes, "LIMIT", 3)
    (life,) = lives(build(name, 1), tokens)
    assert not life.left
    assert life.why.endswith("numbers are too many for a Jacobian")


@every
def test_two_texts(name: str) -> None:
    model, tokens, other = build(name), drawn(), drawn()
    found, itself = apart(model, tokens, other, 4), apart(model, tokens, tokens, 4)
    assert found.positions == [0, 3, 5, 8]
    assert found.distance.shape == found.moved.shape == (DEPTH, 4)
    assert found.moved[:, -1].isnan().all()
    assert (found.moved[:, :-1] > -1e-6).all()
    assert itself.moved[:, :-1].abs().max() < 1e-6
    if name == "transformer":
        assert found.distance.isnan().all()
        return
    assert itself.distance.abs().max() < 1e-3
    one, two = (states_at(model, x, [5])[0] for x in (tokens, other))
    close(found.distance[:, 2], distance(model, one, two)[:, 0])


@pytest.mark.parametrize("name", ["mamba", "rwkv odd", "llama"])
def test_two_texts_in_models_of_transformers(name: str) -> None:
    model, (tokens, other) = PEERS[name].made(), (peers_tokens()[:1, :5] for _ in range(2))
    found = apart(model, tokens, other)
    assert found.distance.isnan().all() == (name == "llama")
    assert (found.moved[:, :-1] > -1e-6).all()
    with pytest.raises(TypeError, match="model must be of recurra"):
        list(lives(model, tokens))


def test_the_last_block_alone_moves_the_end_by_all_of_it() -> None:
    """Of one block, whose state is all that there is."""
    model, tokens, other = build("mingru", 1), drawn(), drawn()
    other[:, -1] = tokens[:, -1]
    found = apart(model, tokens, other, TIME)
    with torch.no_grad():
        p, q = (model(x)[0][:, -1].double().log_softmax(-1) for x in (tokens, other))
    want = float((p.exp() * (p - q)).sum()) / math.log(2)
    assert float(found.moved[0, -2]) == pytest.approx(want, rel=1e-4)


def test_short_texts() -> None:
    model = build("mingru")
    assert apart(model, drawn(2), drawn(2)).positions == [0, 1]
    assert [list(life.left) for life in lives(model, drawn(2))] == [[1, 2]] * DEPTH
    for call in (lambda x: list(lives(model, x)), lambda x: apart(model, x, x)):
        for wrong in (drawn(1), drawn(3).expand(2, -1)):
            with pytest.raises(ValueError, match=r"tokens must be \[1, T\], T at least 2, got "):
                call(wrong)
    with pytest.raises(ValueError, match="count must be at least 2, got 1"):
        apart(model, drawn(3), drawn(3), 1)
    with pytest.raises(ValueError, match=r"donor must be like tokens, \[1, 3\], got \[1, 2\]"):
        apart(model, drawn(3), drawn(2))
