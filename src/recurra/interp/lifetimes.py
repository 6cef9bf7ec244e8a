"""How long what a model has read lives in its states: numbers for `recurra memory`, block by block."""

import math
from collections.abc import Iterator, Sequence
from itertools import product
from typing import Any, NamedTuple

import torch
from torch import Tensor

from recurra.blocks.table import describe
from recurra.interp.memory import decays, half_life, state_jacobian
from recurra.interp.places import states_at, subject
from recurra.interp.states import distance
from recurra.interp.tracing import trace
from recurra.layers.s4d import DISCRETISATIONS, S4DLayer
from recurra.state import GRUState, KVState, LSTMState

__all__ = ["Apart", "Life", "apart", "left", "lives"]

# Numbers of a state beyond which its Jacobian, a backward pass for each of them, takes too long.
LIMIT = 512
_WHY = {
    **dict.fromkeys(("gru", "lstm", "slstm"), "its gates read its own past, no product of them tells"),
    "s4": "its states turn and mix while they fade, no channel does by itself",
    "aaren": "an average over all that was read, which forgets nothing",
    "transformer": "attention keeps all that it has read",
}


class Life(NamedTuple):
    """One block: its name in the table; the factors [T, channels] by which its state forgets, and the names
    and half-lives of these channels; or why it has none. left: of a state, after 1, 2, 4, .. tokens.

    The factors are those of `decays`; of S4D, whose states turn as they fade, the size of its own.
    """

    name: str
    factors: Tensor | None
    channels: Sequence[str]
    half_lives: Tensor
    left: dict[int, float]
    why: str


def left(factors: Tensor) -> dict[int, float]:
    """sqrt(mean of (a_{t+1} .. a_{t+d})^2) over rows, channels and t, for d = 1, 2, 4, ..; a [B, T, ...].

    How much of a difference in all of a state is still there d tokens later.
    """
    found, d, rest = dict[int, float](), 1, factors.double()
    while rest.shape[1]:
        found[d] = float(rest.square().mean().sqrt())
        rest, d = rest[:, :-d] * rest[:, d:], 2 * d
    return found


def _left_by_jacobian(model: Any, tokens: Tensor, block: int) -> dict[int, float]:
    """The same of a state that reads its past: |d h_{t+d} / d h_t| / sqrt(N), after the first quarter."""
    start = (tokens.shape[1] - 1) // 4
    spans = [2**i for i in range(tokens.shape[1].bit_length()) if start + 2**i < tokens.shape[1]]
    squares = {d: state_jacobian(model, tokens, block, start, start + d).double().square() for d in spans}
    return {d: float(x.sum(-1).mean().sqrt()) for d, x in squares.items()}


def _names(shape: Sequence[int]) -> list[str]:
    """3, or 3/17 where channels have two axes."""
    return ["/".join(map(str, at)) for at in product(*map(range, shape))]


def _check(tokens: Tensor) -> None:
    if tokens.ndim != 2 or len(tokens) != 1 or tokens.shape[1] < 2:
        raise ValueError(f"tokens must be [1, T], T at least 2, got {list(tokens.shape)}")


def lives(model: Any, tokens: Tensor) -> Iterator[Life]:
    """Each block on one text, tokens [1, T]. Raises TypeError for a model that is not of recurra."""
    _check(tokens)
    factors, blocks = decays(model, tokens), subject(model).blocks
    known = [
        _sizes(block, tokens.shape[1]) if a is None else a for block, a in zip(blocks, factors, strict=True)
    ]
    with torch.no_grad():
        _, state = subject(model).read(tokens[:, :1])
    for i, (block, a) in enumerate(zip(blocks, known, strict=True)):
        name = describe(block)["block"]
        if a is None:
            remains, why = _without_gates(model, tokens, i, state[i])
            yield Life(name, None, [], torch.zeros(0), remains, f"{_WHY[name]}{why}")
        else:
            yield Life(name, a[0].flatten(1), _names(a.shape[2:]), half_life(a).flatten(), left(a), "")


@torch.no_grad()
def _sizes(block: Any, time: int) -> Tensor | None:
    """|a|, [1, T, N, D], of the complex a of S4D, the same at every step; None of others."""
    layer = getattr(block, "layer", None)
    if not isinstance(layer, S4DLayer):
        return None
    rates = torch.complex(-layer.log_a_real.exp(), layer.a_imag)
    factors, _ = DISCRETISATIONS[layer.discretisation](layer.log_dt.exp()[:, None], rates)
    sizes = factors.abs().T
    return sizes.expand(1, time, *sizes.shape)


def _without_gates(model: Any, tokens: Tensor, block: int, state: Any) -> tuple[dict[int, float], str]:
    """What is left by the Jacobian of a GRU or an LSTM, or why that is not known."""
    inner = getattr(state, "layer", None)
    if not isinstance(inner, GRUState | LSTMState):
        return {}, ""
    size = sum(part[0].numel() for part in inner)
    if size > LIMIT:
        return {}, f", and its {size:,} numbers are too many for a Jacobian"
    return _left_by_jacobian(model, tokens, block), ""


class Apart(NamedTuple):
    """Two texts: distances of their states, NaN for attention, whose state grows; and the bits (KL) by which
    the prediction at the end of the first moves if one block goes on from its state in the second, NaN at the
    end itself. [blocks, positions] each."""

    positions: list[int]
    distance: Tensor
    moved: Tensor


@torch.no_grad()
def apart(model: Any, tokens: Tensor, other: Tensor, count: int = 32) -> Apart:
    """States of two texts [1, T] behind at most `count` of their tokens, and causal tracing from there.

    As `distance` and `trace`, which raise ValueError for texts of unequal lengths.
    """
    _check(tokens)
    if count < 2:
        raise ValueError(f"count must be at least 2, got {count}")
    last = tokens.shape[1] - 1
    positions = sorted({round(i * last / (count - 1)) for i in range(count)})
    moved = torch.full((len(subject(model).blocks), len(positions)), math.nan, dtype=torch.float64)
    moved[:, :-1] = _moved(model, tokens, other, positions[:-1])
    return Apart(positions, _distances(model, tokens, other, positions), moved)


def _distances(model: Any, tokens: Tensor, other: Tensor, positions: Sequence[int]) -> Tensor:
    def one(a: Any, b: Any) -> float:
        grows = isinstance(subject(model).named(a), KVState)
        return math.nan if grows else float(distance(model, (a,), (b,)))

    pairs = zip(states_at(model, tokens, positions), states_at(model, other, positions), strict=True)
    return torch.tensor([[one(a, b) for a, b in zip(*pair, strict=True)] for pair in pairs]).T


def _moved(model: Any, tokens: Tensor, other: Tensor, positions: Sequence[int]) -> Tensor:
    final = subject(model).read(tokens)[0][:, -1].double().log_softmax(-1)

    def bits(logits: Tensor) -> Tensor:
        return (final.exp() * (final - logits.double().log_softmax(-1))).sum(-1) / math.log(2)

    return trace(model, tokens, other, positions, bits)[..., 0]
