"""Every kernel of `gpu.py` by its name: the op as one calls it, its truth in plain torch, what is drawn."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import gpu_memories as memories
import torch
from gpu_memories import Draw, Drawn
from torch import Tensor

from recurra import ops
from recurra.ops import gated
from recurra.ops.causal_conv import conv_open
from recurra.ops.linear import linear_loop, linear_parallel
from recurra.ops.selective import selective_open
from recurra.ops.softmax import softmax_open
from recurra.state import ConvState, LinearState, SelectiveState, SoftmaxState


class Equation(NamedTuple):
    """The op as one calls it and its plain form, both of inputs, states and masks, giving y and states; and
    what is drawn for them, of batch, steps, width and dtype."""

    public: Callable[..., Any]
    truth: Callable[..., Any]
    draw: Callable[..., Drawn]


def equation(name: str) -> Equation:
    """Of one of `NAMES`."""
    if name in memories.NAMES:
        return Equation(*(partial(f, name) for f in (memories.public, memories.truth, memories.drawn)))
    if name in GATES:
        return Equation(partial(public, name), partial(truth, name), _in_rows(partial(drawn_gates, name)))
    return EQUATIONS[name]


def _in_rows(draw: Callable[..., tuple[list[Tensor], Tensor]]) -> Callable[..., Drawn]:
    """With the cotangents of what is read, and of one state; inputs are of the dtype."""

    def drawn(shape: tuple[int, int, int], dtype: torch.dtype, normal: Draw) -> Drawn:
        xs, state = draw(normal, *shape)
        return [*(x.to(dtype) for x in xs), state], (normal(*shape).to(dtype), normal(*state.shape))

    return drawn


def drawn_gates(
    gate: str, normal: Callable[..., Tensor], batch: int, steps: int, width: int
) -> tuple[list[Tensor], Tensor]:
    """The inputs of a gate and its initial state."""
    parts = [1, 1] if gate == "linear" else [gated.FUSIONS[gate].parts]
    xs = [2 * normal(batch, steps, part * width) for part in parts]
    return [xs[0].sigmoid(), xs[1]] if gate == "linear" else xs, normal(batch, width)


def public(
    gate: str, *inputs: Tensor, reset: Tensor | None, lengths: Tensor | None, reverse: bool
) -> tuple[Tensor, Tensor]:
    """The recurrence as one calls it."""
    *xs, h_0 = inputs
    cell, _, candidate = gate.rpartition("_")
    how: dict[str, Any] = {"candidate": candidate} if cell else {}
    if cell.startswith("minlstm"):
        how["normalized"] = cell == "minlstm"
    op = {"": ops.linear, "mingru": ops.mingru}.get(cell, ops.minlstm)
    y, state = op(*xs, LinearState(h_0), reset, lengths, reverse=reverse, **how)
    return y, state.h


def truth(
    gate: str, *inputs: Tensor, reset: Tensor | None, lengths: Tensor | None, reverse: bool
) -> tuple[Tensor, Tensor]:
    """The recurrence in plain torch, in the dtype of its inputs: step by step, or in parallel if long."""
    *xs, h_0 = inputs
    a, b = xs if gate == "linear" else gated.FUSIONS[gate].gates(*xs)
    form = linear_loop if b.shape[1] < 1000 else linear_parallel
    return form(a, b, h_0, reset, lengths, reverse)


def drawn_conv(
    normal: Callable[..., Tensor], batch: int, steps: int, width: int
) -> tuple[list[Tensor], Tensor]:
    return [normal(batch, steps, width), normal(width, 4), normal(width)], normal(batch, 3, width)


def public_conv(*inputs: Tensor, reset: Tensor | None, lengths: Tensor | None, reverse: bool) -> Any:
    x, weight, bias, state = inputs
    y, state_n = ops.causal_conv(x, weight, bias, ConvState(state), reset, lengths)
    return y, state_n.x


def true_conv(*inputs: Tensor, reset: Tensor | None, lengths: Tensor | None, reverse: bool) -> Any:
    return conv_open(*inputs, reset=reset, lengths=lengths)


def drawn_selective(
    normal: Callable[..., Tensor], batch: int, steps: int, width: int
) -> tuple[list[Tensor], Tensor]:
    rows = [normal(batch, steps, size) for size in (width, width, 16, 16, width)]
    return [*rows, -normal(width, 16).exp(), normal(width), normal(width)], normal(batch, 16, width)


def public_selective(*inputs: Tensor, reset: Tensor | None, lengths: Tensor | None, reverse: bool) -> Any:
    x, delta, B, C, z, A, D, bias, h_0 = inputs
    y, state = ops.selective(x, delta, A, B, C, D, bias, z, SelectiveState(h_0), reset, lengths)
    return y, state.h


def true_selective(*inputs: Tensor, reset: Tensor | None, lengths: Tensor | None, reverse: bool) -> Any:
    A, D, bias, h_0 = inputs[5:]
    return selective_open(inputs[:5], (A.t(), D, bias), h_0, (reset, lengths))


def drawn_softmax(
    groups: tuple[int, ...], normal: Callable[..., Tensor], batch: int, steps: int, width: int
) -> tuple[list[Tensor], Tensor]:
    """As many channels a head as divide the width; the packed state is one that has read something."""
    heads = width // next(size for size in groups if width % size == 0)
    xs = [3 * normal(batch, steps, heads), normal(batch, steps, width), normal(heads).abs(), normal(heads)]
    return xs, torch.cat([normal(batch, heads), normal(batch, width), normal(batch, heads).exp()], -1)


def public_softmax(*inputs: Tensor, reset: Tensor | None, lengths: Tensor | None, reverse: bool) -> Any:
    scores, values, decay, bonus, state = inputs
    heads, width = scores.shape[-1], values.shape[-1]
    first = SoftmaxState(*state.split([heads, width, heads], -1))
    how: dict[str, Any] = {"decay": decay, "bonus": bonus, "reverse": reverse}
    y, last = ops.softmax(scores, values, first, reset, lengths, **how)
    return y, torch.cat(last, -1)


EQUATIONS = {
    "causal_conv": Equation(public_conv, true_conv, _in_rows(drawn_conv)),
    "selective": Equation(public_selective, true_selective, _in_rows(drawn_selective)),
    "softmax": Equation(public_softmax, softmax_open, _in_rows(partial(drawn_softmax, (1,)))),
    "softmax of heads": Equation(public_softmax, softmax_open, _in_rows(partial(drawn_softmax, (3, 5, 8)))),
}
GATES = ("linear", *gated.FUSIONS)
NAMES = (*GATES, *EQUATIONS, *memories.NAMES)
FORWARD_ALONE = ("causal_conv", "selective", *memories.OUTERS)  # in one direction of time
