"""Running softmax averages on a GPU: what csrc/softmax.h is on a CPU.

A program owns one row of the batch and some heads, a thread for each channel or few, and walks through time
step by step with the sums in registers. Where batch and heads are too few to fill a card, time is cut into
chunks: the sums of each, the chunks joined, and each from its true state. The backward pass walks forward
once more and keeps the state before each tile of steps; its own chunks are joined by `linear`.
Aaren (arXiv 2405.13956) and RWKV-4 (arXiv 2305.13048).
"""

from functools import cache
from typing import Any, NamedTuple

import torch
from torch import Tensor

from recurra.ops import native
from recurra.ops.kernels.linear import carries
from recurra.ops.kernels.softmax_forward import Inputs, forward, forward_totals, join_chunks
from recurra.ops.kernels.softmax_pullback import Gradients, backward, backward_totals
from recurra.ops.kernels.walk import Masks, Walk, as_bytes, ceil, power, split, view


class Plan(NamedTuple):
    """Steps at once, heads a program, warps, and steps a chunk."""

    run: int
    heads: int
    warps: int
    chunk: int


@cache
def plan(batch: int, time: int, heads: int, group: int) -> Plan:
    """By the shape alone. Not yet measured."""
    together = min(power(heads), max(1, 32 // power(group)))
    channels = together * power(group)
    warps = min(8, max(1, channels // 128))
    # So that the states of a tile fit into registers: 16 of one channel do not.
    run = 8 if channels <= 32 * warps else 4
    return Plan(run, together, warps, split(batch * ceil(heads, together) * warps, time))


def _walk(scores: Tensor, values: Tensor, masks: Masks, reverse: bool) -> Walk:
    batch, time, heads = scores.shape
    group = values.shape[2] // heads
    p = plan(batch, time, heads, group)
    how: dict[str, Any] = {"HEADS": heads, "GROUP": group, "BLOCK_H": p.heads, "BLOCK_G": power(group)}
    how |= {"RUN": p.run, "REVERSE": reverse, "num_warps": p.warps}
    return Walk(batch, time, ceil(heads, p.heads), p.chunk, (), as_bytes(*masks), how)


def _starts(walk: Walk, of: Inputs, state: Tensor) -> Tensor:
    """The state before each chunk, [B, chunks, 2 H + D]."""
    if walk.chunks == 1:
        return state
    ends, kept = (
        state.new_empty(walk.batch, walk.chunks, state.shape[1]),
        state.new_empty(walk.batch, walk.chunks),
    )
    starts = torch.empty_like(ends)
    walk.launch(forward_totals, of, ends, kept)
    whole = walk._replace(chunk=walk.time)
    whole.launch(join_chunks, of, state, ends, kept, starts, walk.chunk, walk.chunks)
    return starts


def _inputs(scores: Tensor, values: Tensor, decay: Tensor, bonus: Tensor) -> Inputs:
    return Inputs(view(native.as_rows(scores)), view(native.as_rows(values)), decay, bonus)


def softmax(
    scores: Tensor,
    values: Tensor,
    decay: Tensor,
    bonus: Tensor,
    state: Tensor,
    reset: Tensor | None,
    lengths: Tensor | None,
    reverse: bool,
) -> tuple[Tensor, Tensor]:
    """As `native.softmax`."""
    y, state = native.empty_as(values), state.contiguous()
    if not y.numel():
        return y, state.clone()
    state_n, of = torch.empty_like(state), _inputs(scores, values, decay, bonus)
    walk = _walk(scores, values, (reset, lengths), reverse)
    with torch.cuda.device_of(scores):
        walk.launch(forward, of, view(y), _starts(walk, of, state), None, state_n)
    return y, state_n


def _through_max(state: Tensor, gradient: Tensor, heads: int, sign: int) -> Tensor:
    """The gradient, where that of the max has what a change of units does to both sums."""
    terms = torch.where(gradient == 0, 0, gradient * state)[:, heads:]
    numerator, denominator = terms[:, :-heads], terms[:, -heads:]
    both = numerator.unflatten(1, (heads, -1)).sum(2) + denominator
    return torch.cat([gradient[:, :heads] + sign * both, gradient[:, heads:]], 1)


def softmax_backward(
    dy: Tensor,
    dstate_n: Tensor,
    scores: Tensor,
    values: Tensor,
    decay: Tensor,
    bonus: Tensor,
    state: Tensor,
    reset: Tensor | None,
    lengths: Tensor | None,
    reverse: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """As `native.softmax_backward`."""
    ds, dv, state = native.empty_as(scores), native.empty_as(values), state.contiguous()
    batch, time, heads = scores.shape
    if not dv.numel():
        return ds, dv, torch.zeros_like(decay), torch.zeros_like(bonus), dstate_n.clone()
    of, read = _inputs(scores, values, decay, bonus), view(native.as_rows(dy.to(values.dtype)))
    walk, state_n = _walk(scores, values, (reset, lengths), reverse), torch.empty_like(state)
    saved = state.new_empty(batch, ceil(time, walk.how["RUN"]), state.shape[1])
    dstate = torch.empty_like(state)
    ddecay, dbonus = state.new_empty(2, batch, walk.chunks, heads)
    to = Gradients(view(ds), view(dv))
    with torch.cuda.device_of(scores):
        walk.launch(forward, of, None, _starts(walk, of, state), saved, state_n)
        g_n = _through_max(state_n, dstate_n.to(state.dtype), heads, -1)
        carry = carries(walk, backward_totals, (of, read, saved), g_n)
        walk.launch(backward, of, read, to, saved, g_n, dstate, ddecay, dbonus, carry)
    dstate = _through_max(state, dstate, heads, 1)
    return ds, dv, ddecay.sum((0, 1)), dbonus.sum((0, 1)), dstate
