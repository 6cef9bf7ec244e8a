"""Calls of the running softmax averages (csrc/softmax.h)."""

import struct

import torch
from torch import Tensor

from recurra.ops.native.layout import advise, as_rows, empty_as, pointer, view_of
from recurra.ops.native.library import DTYPES, call, require, threads_for

_SOFTMAX = struct.Struct("36q")
_STEP = struct.Struct("15q")


def _head(
    scores: Tensor,
    values: Tensor,
    decay: Tensor,
    bonus: Tensor,
    state: Tensor,
    reset: Tensor | None,
    lengths: Tensor | None,
    reverse: bool,
) -> tuple[int, ...]:
    """The record up to the state; its tensors must stay alive until the call."""
    fields = (DTYPES[values.dtype], reverse, threads_for(values.numel()))
    sizes = (*scores.shape, values.shape[2])
    tensors = (*view_of(scores), *view_of(values), decay.data_ptr(), bonus.data_ptr(), state.data_ptr())
    return *fields, *sizes, pointer(reset), pointer(lengths), *tensors


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
    """(y, state_n); state [B, 2H + D], and decay and bonus [H] in its dtype, contiguous."""
    require(scores, values)
    y = advise(empty_as(values))
    if not y.numel():
        return y, state.clone()
    rows, state_n = (as_rows(scores), as_rows(values)), torch.empty_like(state)
    head = _head(*rows, decay, bonus, state, reset, lengths, reverse)
    call("softmax_forward", _SOFTMAX.pack(*head, *view_of(y), state_n.data_ptr(), *(0,) * 14))
    return y, state_n


def softmax_step(
    scores: Tensor,
    values: Tensor,
    decay: Tensor | None,
    bonus: Tensor | None,
    state: tuple[Tensor, ...],
) -> tuple[Tensor, list[Tensor]]:
    """(y, state_n) of one step; scores [B, H], values [B, D], state (max, numerator, denominator).

    decay and bonus [H] are in the dtype of the state; everything contiguous (unchecked).
    """
    y, state_n = torch.empty_like(values), [torch.empty_like(x) for x in state]
    given = (scores.data_ptr(), values.data_ptr(), pointer(decay), pointer(bonus))
    parts = (*(x.data_ptr() for x in state), y.data_ptr(), *(x.data_ptr() for x in state_n))
    call("softmax_step", _STEP.pack(DTYPES[values.dtype], *scores.shape, values.shape[1], *given, *parts))
    return y, state_n


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
    """Gradients of scores, values, decay, bonus and state."""
    require(scores, values)
    ds, dv = empty_as(scores), advise(empty_as(values))
    batch, time, heads = scores.shape
    if not dv.numel():
        nothing = state.new_zeros(heads)
        return ds, dv, nothing, nothing.clone(), dstate_n.clone()
    rows, dstate_n = (as_rows(scores), as_rows(values)), dstate_n.to(state.dtype).contiguous()
    dy, dstate = as_rows(dy.to(values.dtype)), torch.empty_like(state)
    ddecay, dbonus = state.new_empty(batch, heads), state.new_empty(batch, heads)
    scratch = state.new_empty(batch, 34 + -(-time // 32), state.shape[1])
    head = _head(*rows, decay, bonus, state, reset, lengths, reverse)
    seeds = (*view_of(dy), dstate_n.data_ptr())
    grads = (*view_of(ds), *view_of(dv), *(x.data_ptr() for x in (dstate, ddecay, dbonus, scratch)))
    call("softmax_backward", _SOFTMAX.pack(*head, 0, 0, 0, 0, *seeds, *grads))
    return ds, dv, ddecay.sum(0), dbonus.sum(0), dstate
