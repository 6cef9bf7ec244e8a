"""Calls of the memory-mixing cells (csrc/cell.h)."""

import struct

import torch
from torch import Tensor

from recurra.ops.native.layout import (
    advise,
    as_rows,
    empty_as,
    empty_rows,
    flat_rows,
    pointer,
    rows_of,
    view_of,
)
from recurra.ops.native.library import DTYPES, call, require, threads_for

# The order is that of `CellKind` in csrc/abi.h.
CELLS = {"gru": 0, "lstm": 1, "slstm": 2}
_CELL, _STEP = struct.Struct("32q"), struct.Struct("18q")


def _cell_head(
    kind: str,
    x: Tensor,
    weight: Tensor,
    width: int,
    reset: Tensor | None,
    lengths: Tensor | None,
    reverse: bool,
) -> tuple[int, ...]:
    batch, time, gates = x.shape
    channels = weight.shape[-1]
    fields = (CELLS[kind], DTYPES[x.dtype], reverse, threads_for(batch * time * gates * channels // 8))
    return *fields, batch, time, width // channels, width, pointer(reset), pointer(lengths), *view_of(x)


def _cell_scratch(x: Tensor, weight: Tensor, state: Tensor) -> Tensor:
    states, batch, width = state.shape
    gates, channels = x.shape[2], weight.shape[-1]
    rows = gates + (gates // width + states + 1) * batch * (width // channels)
    return state.new_empty(rows * (-(-channels // 32) * 32))


def cell(
    kind: str,
    gates: Tensor,
    weight: Tensor,
    bias: Tensor,
    state: Tensor,
    reset: Tensor | None,
    lengths: Tensor | None,
    reverse: bool,
) -> tuple[Tensor, Tensor]:
    """(y, state_n) of a memory-mixing cell; state [states, B, H], and weight and bias in its dtype; weight
    [parts * H, H] or [heads, parts * C, C]."""
    require(gates)
    width = state.shape[2]
    y, state = advise(empty_rows(gates, width)), state.contiguous()
    if not y.numel():
        return y, state.clone()
    x, weight, bias = as_rows(gates), weight.contiguous(), bias.contiguous()
    state_n, scratch = torch.empty_like(state), _cell_scratch(x, weight, state)
    head = _cell_head(kind, x, weight, width, reset, lengths, reverse)
    matrix, states = (weight.data_ptr(), bias.data_ptr()), (state.data_ptr(), state_n.data_ptr())
    record = _CELL.pack(*head, *matrix, *view_of(y), *states, scratch.data_ptr(), *(0,) * 11)
    call("cell_forward", record)
    return y, state_n


def cell_step(
    kind: str, gates: Tensor, recurrent: Tensor, bias: Tensor | None, state: tuple[Tensor, ...]
) -> tuple[Tensor, tuple[Tensor, ...]]:
    """(y, state_n) of one step from gates [B, parts * H] and recurrent [B, heads, parts * C], h through the
    weights; each part of state [B, H]; all but gates contiguous and in the state's dtype (unchecked)."""
    (batch, width), heads, gates = state[0].shape, recurrent.shape[1], flat_rows(gates)
    y, last = gates.new_empty(batch, width), tuple(torch.empty_like(x) for x in state)
    fields = (CELLS[kind], DTYPES[gates.dtype], batch, heads, width, *rows_of(gates))
    rest = (0,) * (4 - len(state))
    states = (*map(pointer, state), *rest, *map(pointer, last), *rest)
    call("cell_step", _STEP.pack(*fields, recurrent.data_ptr(), pointer(bias), *states, y.data_ptr()))
    return y, last


def cell_backward(
    kind: str,
    cotangents: tuple[Tensor, Tensor],
    gates: Tensor,
    weight: Tensor,
    state: Tensor,
    mixed: tuple[Tensor, Tensor],
    masks: tuple[Tensor | None, Tensor | None],
    reverse: bool,
) -> tuple[Tensor, Tensor]:
    """Gradients of gates and state, from those of y and state_n.

    mixed: before [B, T, H], h_{t-1} as step t saw it, and before weight^T + bias, contiguous, of heads the
    heads first, which is overwritten by its own gradient.
    """
    require(gates)
    (dy, dstate_n), (before, recurrent) = cotangents, mixed
    dgates, state, before = advise(empty_as(gates)), state.contiguous(), before.contiguous()
    dstate_n = dstate_n.to(state.dtype).contiguous()
    if not before.numel():
        return dgates, dstate_n.clone()
    x, dy, weight, dstate = (
        as_rows(gates),
        as_rows(dy.to(gates.dtype)),
        weight.contiguous(),
        torch.empty_like(state),
    )
    memory, scratch = before.new_empty((len(state) - 1) * before.numel()), _cell_scratch(x, weight, state)
    head = _cell_head(kind, x, weight, state.shape[2], *masks, reverse)
    starts = (weight.data_ptr(), 0, 0, 0, 0, state.data_ptr(), 0, scratch.data_ptr())
    steps = (before.data_ptr(), recurrent.data_ptr(), memory.data_ptr())
    ends = (dstate_n.data_ptr(), dstate.data_ptr())
    call("cell_backward", _CELL.pack(*head, *starts, *view_of(dy), *view_of(dgates), *steps, *ends))
    return dgates, dstate
