"""Calls of the causal convolution (csrc/conv.h)."""

import struct

import torch
from torch import Tensor

from recurra.ops.native.layout import advise, as_rows, empty_as, flat_rows, pointer, rows_of, view_of
from recurra.ops.native.library import DTYPES, call, require, threads_for

MAX_TAPS = 16  # kMaxTaps in csrc/conv.h
_CONV = struct.Struct("28q")
_CONV_STEP = struct.Struct("11q")


def conv(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    state: Tensor,
    reset: Tensor | None,
    lengths: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """(y, state_n) of the causal depthwise convolution; weight [D, K], state [B, K-1, D] in its dtype."""
    require(x)
    y, x, state = advise(empty_as(x)), as_rows(x), state.contiguous()
    state_n = torch.empty_like(state)
    if not y.numel():
        return y, state.clone()
    taps = weight.to(state.dtype).t().contiguous()
    bias = None if bias is None else bias.to(state.dtype).contiguous()
    fields = (DTYPES[x.dtype], threads_for(y.numel()), *x.shape, weight.shape[1])
    masks = (pointer(reset), pointer(lengths))
    tensors = (taps.data_ptr(), pointer(bias), state.data_ptr(), state_n.data_ptr())
    call("conv_forward", _CONV.pack(*fields, *masks, *view_of(x), *view_of(y), *tensors, *(0,) * 10))
    return y, state_n


def conv_backward(
    dy: Tensor,
    dstate_n: Tensor,
    x: Tensor,
    weight: Tensor,
    state: Tensor,
    reset: Tensor | None,
    lengths: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Gradients of x, weight, bias and state."""
    require(x)
    dx, x, dy, state = advise(empty_as(x)), as_rows(x), as_rows(dy.to(x.dtype)), state.contiguous()
    dstate, dstate_n = torch.empty_like(state), dstate_n.to(state.dtype).contiguous()
    batch, _, width = x.shape
    taps = weight.to(state.dtype).t().contiguous()
    if not x.numel():
        return dx, weight.new_zeros(weight.shape), weight.new_zeros(width), dstate_n.clone()
    dweight, dbias = state.new_empty(batch, *taps.shape), state.new_empty(batch, width)
    fields = (DTYPES[x.dtype], threads_for(x.numel()), *x.shape, weight.shape[1])
    masks = (pointer(reset), pointer(lengths))
    tensors = (taps.data_ptr(), 0, state.data_ptr(), 0, *view_of(dy), dstate_n.data_ptr(), *view_of(dx))
    grads = (dweight.data_ptr(), dbias.data_ptr(), dstate.data_ptr())
    call("conv_backward", _CONV.pack(*fields, *masks, *view_of(x), 0, 0, 0, *tensors, *grads))
    return dx, dweight.sum(0).t().to(weight.dtype).contiguous(), dbias.sum(0).to(weight.dtype), dstate


def conv_step(x: Tensor, weight: Tensor, bias: Tensor | None, state: Tensor) -> tuple[Tensor, Tensor]:
    """(y, state_n) of one step; x [B, D], weight [D, K], state [B, K-1, D] (unchecked)."""
    y, state_n = x.new_empty(x.shape), state.new_empty(state.shape)
    x, weight, state = flat_rows(x), weight.t().contiguous(), state.contiguous()
    bias = None if bias is None else bias.contiguous()
    fields = (DTYPES[x.dtype], *x.shape, len(weight), *rows_of(x), weight.data_ptr(), pointer(bias))
    call("conv_step", _CONV_STEP.pack(*fields, state.data_ptr(), y.data_ptr(), state_n.data_ptr()))
    return y, state_n
