"""Calls of the token mixes (csrc/token_mix.h)."""

import struct
from collections.abc import Sequence

import torch
from torch import Tensor

from recurra.ops.native.layout import advise, as_rows, empty_as, pointer, view_of
from recurra.ops.native.library import DTYPES, call, require, threads_for

MAX_MIXES = 4  # kTokenMixes in csrc/abi.h
_BLOCK = 64  # kTokenMixBlock
_MIX = struct.Struct("32q")
_STEP = struct.Struct("12q")


def token_mix(
    x: Tensor, mixes: Tensor, state: Tensor, reset: Tensor | None, lengths: Tensor | None
) -> tuple[list[Tensor], Tensor]:
    """(m x_t + (1 - m) x_{t-1} for each m of mixes [M, D], the last input); state [B, 1, D] in its dtype."""
    require(x)
    ys, state = [advise(empty_as(x)) for _ in range(len(mixes))], state.contiguous()
    if not x.numel():
        return ys, state.clone()
    x, mixes, state_n = as_rows(x), mixes.to(state.dtype).contiguous(), torch.empty_like(state)
    given = (pointer(reset), pointer(lengths), *view_of(x), mixes.data_ptr(), state.data_ptr())
    call("token_mix_forward", _MIX.pack(*_sizes(x, ys), *given, state_n.data_ptr(), *_views(ys), *(0,) * 6))
    return ys, state_n


def token_mix_backward(
    dys: Sequence[Tensor],
    dstate_n: Tensor,
    x: Tensor,
    mixes: Tensor,
    state: Tensor,
    reset: Tensor | None,
    lengths: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of x, mixes and state."""
    require(x)
    dx, state = advise(empty_as(x)), state.contiguous()
    dstate_n = dstate_n.to(state.dtype).contiguous()
    if not x.numel():
        return dx, mixes.new_zeros(mixes.shape), dstate_n.clone()
    x, wide, dstate = as_rows(x), mixes.to(state.dtype).contiguous(), torch.empty_like(state)
    dys = [as_rows(dy.to(x.dtype)) for dy in dys]
    dmixes = state.new_empty(len(x), -(-x.shape[1] // _BLOCK), *mixes.shape)
    given = (pointer(reset), pointer(lengths), *view_of(x), wide.data_ptr(), state.data_ptr(), 0)
    grads = (dstate_n.data_ptr(), *view_of(dx), dmixes.data_ptr(), dstate.data_ptr())
    call("token_mix_backward", _MIX.pack(*_sizes(x, dys), *given, *_views(dys), *grads))
    return dx, dmixes.sum((0, 1)).to(mixes.dtype), dstate


def _sizes(x: Tensor, ys: Sequence[Tensor]) -> tuple[int, ...]:
    return DTYPES[x.dtype], threads_for(len(ys) * x.numel()), *x.shape, len(ys)


def _views(ys: Sequence[Tensor]) -> list[int]:
    """Four views, the last ones of nothing."""
    return [field for y in ys for field in view_of(y)] + [0] * 3 * (MAX_MIXES - len(ys))


def token_mix_step(x: Tensor, mixes: tuple[Tensor, ...], before: Tensor) -> tuple[tuple[Tensor, ...], Tensor]:
    """(m x + (1 - m) before for each of at most four mixes [D], x in the dtype of before).

    x, before [B, D]; everything contiguous, x and mixes of one dtype (unchecked).
    """
    y, after = x.new_empty(len(mixes), *x.shape), torch.empty_like(before)
    fields = (DTYPES[x.dtype], *x.shape, len(mixes), x.data_ptr(), before.data_ptr(), after.data_ptr())
    pointers = [m.data_ptr() for m in mixes] + [0] * (MAX_MIXES - len(mixes))
    call("token_mix_step", _STEP.pack(*fields, *pointers, y.data_ptr()))
    return y.unbind(0), after
