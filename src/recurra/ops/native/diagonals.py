"""Calls of the diagonal state space (csrc/diagonal.h), and of that minus rank one (csrc/dplr.h)."""

import struct

import torch
from torch import Tensor

from recurra.ops.native.layout import advise, as_rows, empty_as, pointer, view_of
from recurra.ops.native.library import DTYPES, call, require, threads_for

_DIAGONAL = struct.Struct("29q")
# kDiagonalTile in csrc/abi.h
_TILE = 64
# By the number of parameters of a state.
_NAMES = {3: "diagonal", 5: "dplr"}

Masks = tuple[Tensor | None, Tensor | None]


def _sizes(u: Tensor, states: int) -> tuple[int, ...]:
    return DTYPES[u.dtype], threads_for(u.numel() * states), *u.shape, states


def diagonal(u: Tensor, parameters: Tensor, skip: Tensor, h_0: Tensor, masks: Masks) -> tuple[Tensor, Tensor]:
    """(y, h_n): u [B, T, D]; parameters [N, 3, 2, D], or 5 of them minus rank one, skip [D] and h_0
    [B, N, 2, D] in the state's dtype."""
    require(u)
    y, u = advise(empty_as(u)), as_rows(u)
    parameters, skip, h_0 = parameters.contiguous(), skip.contiguous(), h_0.contiguous()
    if not y.numel():
        return y, h_0.clone()
    h_n = torch.empty_like(h_0)
    call(
        f"{_NAMES[parameters.shape[1]]}_forward",
        _DIAGONAL.pack(
            *_sizes(u, len(parameters)),
            *map(pointer, masks),
            *view_of(u),
            *view_of(y),
            *(x.data_ptr() for x in (parameters, skip, h_0, h_n)),
            *(0,) * 11,
        ),
    )
    return y, h_n


def diagonal_backward(
    dy: Tensor, dh_n: Tensor, u: Tensor, parameters: Tensor, skip: Tensor, h_0: Tensor, masks: Masks
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Gradients of u, parameters, skip and h_0."""
    require(u)
    du, dy, u = advise(empty_as(u)), as_rows(dy.to(u.dtype)), as_rows(u)
    parameters, skip, h_0 = parameters.contiguous(), skip.contiguous(), h_0.contiguous()
    dh_n = dh_n.to(h_0.dtype).contiguous()
    if not u.numel():
        return du, torch.zeros_like(parameters), torch.zeros_like(skip), dh_n.clone()
    (batch, time, _), dh_0 = u.shape, torch.empty_like(h_0)
    dparameters, dskip = h_0.new_empty(batch, *parameters.shape), h_0.new_empty(batch, *skip.shape)
    name = _NAMES[parameters.shape[1]]
    scratch = h_0.new_empty(batch * -(-time // _TILE) if name == "dplr" else 0, *h_0.shape[1:])
    call(
        f"{name}_backward",
        _DIAGONAL.pack(
            *_sizes(u, len(parameters)),
            *map(pointer, masks),
            *view_of(u),
            *(0,) * 3,
            *(x.data_ptr() for x in (parameters, skip, h_0)),
            0,
            *view_of(dy),
            dh_n.data_ptr(),
            *view_of(du),
            *(x.data_ptr() for x in (dparameters, dskip, dh_0, scratch)),
        ),
    )
    return du, dparameters.sum(0), dskip.sum(0), dh_0
