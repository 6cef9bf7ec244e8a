"""Calls of the matrix memory (csrc/outer.h)."""

import struct
from typing import Any

import torch
from torch import Tensor

from recurra.ops.native.layout import advise, as_rows, pointer, view_of
from recurra.ops.native.library import DTYPES, call, require, threads_for
from recurra.ops.native.tape import replaced

SEGMENT = 64  # kOuterSegment in csrc/abi.h
_OUTER = struct.Struct("9qd53q")
# Multiplications a step and head make up for one output of a cheaper kernel.
_COST = 64

# inputs: q, k [B, T, H, K], v [B, T, H, V], decay [B, T, H] or [B, T, H, K]; gate [B, T, H] or None;
# bonus [H, K] in the state's dtype or None; state: c, n, max.
Tensors = tuple[Tensor, ...]
Optional = tuple[Tensor | None, ...]


def _head(
    inputs: Tensors, gate: Tensor | None, bonus: Tensor | None, masks: Optional, scale: float
) -> list[Any]:
    """Everything in front of the state; the caller holds on to what is pointed at."""
    q, _, v, decay = inputs
    batch, time, heads, keys = q.shape
    channels = keys if decay.ndim == 4 else 1
    threads = threads_for(batch * time * heads * keys * v.shape[3] // _COST)
    fields = (DTYPES[q.dtype], threads, batch, time, heads, keys, v.shape[3], gate is not None, channels)
    views = [field for x in inputs for field in view_of(as_rows(x))]
    gated = (0, 0, 0) if gate is None else view_of(gate)
    return [*fields, scale, *map(pointer, masks), *views, *gated, pointer(bonus)]


def _laid_out(inputs: Tensors) -> Tensors:
    """Each with the channels of a head side by side, and the heads too."""
    return tuple(x if _ready(x) else x.contiguous() for x in inputs)


def _ready(x: Tensor) -> bool:
    if x.ndim == 3:
        return x.stride(2) == 1 or x.shape[2] == 1
    return (x.stride(3) == 1 or x.shape[3] == 1) and (x.stride(2) == x.shape[3] or x.shape[2] == 1)


def _places(state: Tensors, gate: Tensor | None) -> tuple[int, ...]:
    """Where c, n and max lie; without a gate there are no n and max."""
    c, n, top = state
    return (c.data_ptr(), 0, 0) if gate is None else (c.data_ptr(), n.data_ptr(), top.data_ptr())


def outer(
    inputs: Tensors,
    gate: Tensor | None,
    bonus: Tensor | None,
    state: Tensors,
    masks: Optional,
    scale: float,
    keep: bool,
) -> tuple[Tensor, Tensors, Tensor]:
    """y [B, T, H, V], the last state and, if it is to be kept, the state before each segment."""
    require(*inputs)
    inputs, state = _laid_out(inputs), tuple(x.contiguous() for x in state)
    (batch, time, heads, keys), v, c = inputs[0].shape, inputs[2], state[0]
    gate = None if gate is None else _laid_out((gate,))[0]
    y, last = advise(v.new_empty(v.shape)), state if replaced(*state) else tuple(map(torch.empty_like, state))
    segments = -(-time // SEGMENT) if keep else 0
    entering = advise(c.new_empty(batch * heads * segments * keys * (v.shape[3] + 1)))
    head = _head(inputs, gate, bonus, masks, scale)
    places = (*_places(state, gate), *_places(last, gate), entering.data_ptr() if keep else 0)
    call("outer_forward", _OUTER.pack(*head, *places, *view_of(y), *(0,) * 25))
    return y, last, entering


def outer_backward(
    cotangents: Tensors,
    inputs: Tensors,
    gate: Tensor | None,
    bonus: Tensor | None,
    states: tuple[Tensors, Tensors],
    entering: Tensor,
    masks: Optional,
    scale: float,
) -> tuple[Tensors, Tensor | None, Tensor | None, Tensors]:
    """Gradients of the inputs, of gate and bonus, and of the initial state.

    states: the initial and the last one; entering: those before the segments.
    """
    require(*inputs)
    inputs = _laid_out(inputs)
    gate = None if gate is None else _laid_out((gate,))[0]
    first, last, seeds = (tuple(x.contiguous() for x in s) for s in (*states, cotangents[1:]))
    dy, grads = (
        _laid_out((cotangents[0].to(inputs[0].dtype),))[0],
        tuple(advise(x.new_empty(x.shape)) for x in inputs),
    )
    dgate = None if gate is None else gate.new_empty(gate.shape)
    dbonus = None if bonus is None else bonus.new_empty(inputs[0].shape[0], *bonus.shape)
    dfirst = tuple(x.new_empty(x.shape) for x in first)
    head = _head(inputs, gate, bonus, masks, scale)
    places = (*_places(first, gate), *_places(last, gate), entering.data_ptr(), 0, 0, 0, *view_of(dy))
    views = [field for x in (*grads, dgate) for field in ((0, 0, 0) if x is None else view_of(x))]
    ends = (pointer(dbonus), *_places(dfirst, gate))
    call("outer_backward", _OUTER.pack(*head, *places, *_places(seeds, gate), *views, *ends))
    return grads, dgate, None if dbonus is None else dbonus.sum(0), dfirst
