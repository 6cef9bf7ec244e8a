"""Calls of the norms (csrc/norm.h)."""

import struct

import torch
from torch import Tensor

from recurra.ops.native.layout import advise, pointer
from recurra.ops.native.library import DTYPES, STATES, call, threads_for

_NORM = struct.Struct("5qd12q")
_BLOCK = 64  # kNormBlock in csrc/abi.h


def norm(
    x: Tensor, weight: Tensor, bias: Tensor | None, added: Tensor | None, eps: float, keep: bool = True
) -> tuple[Tensor, Tensor, Tensor]:
    """(x + added, or x; its norm; mean and scale of each row), everything contiguous and of one dtype.

    weight, bias [width], or [groups, width] for rows in turn; bias None where the mean stays.
    keep: whether a backward pass will need the mean and the scale.
    """
    y, total = advise(torch.empty_like(x)), x if added is None else advise(torch.empty_like(x))
    moments = x.new_empty((*x.shape[:-1], 2) if keep else (0,), dtype=STATES[x.dtype])
    width = x.shape[-1]
    if not x.numel():
        return total, y, moments
    head = (DTYPES[x.dtype], threads_for(x.numel()), x.numel() // width, width, weight.numel() // width, eps)
    given = (x.data_ptr(), pointer(added), weight.data_ptr(), pointer(bias))
    made = (0 if added is None else total.data_ptr(), y.data_ptr(), moments.data_ptr() if keep else 0)
    call("norm_forward", _NORM.pack(*head, *given, *made, 0, 0, 0, 0, 0))
    return total, y, moments


def norm_backward(
    dsum: Tensor | None, dy: Tensor, x: Tensor, weight: Tensor, moments: Tensor, centred: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of the sum x, of weight and of bias (empty unless centred), from those of the sum and of its
    norm; all contiguous."""
    width, dx = x.shape[-1], advise(torch.empty_like(x))
    rows = x.numel() // max(width, 1)
    blocks = -(-rows // _BLOCK)
    dweight = moments.new_empty(blocks, *weight.shape)
    dbias = moments.new_empty(blocks, *(weight.shape if centred else (0,)))
    if x.numel():
        head = (DTYPES[x.dtype], threads_for(x.numel()), rows, width, weight.numel() // width, 0.0)
        # A bias says that the mean was taken away; its numbers are not read.
        given = (x.data_ptr(), 0, weight.data_ptr(), weight.data_ptr() if centred else 0)
        grads = (pointer(dsum), dy.data_ptr(), dx.data_ptr(), dweight.data_ptr())
        last = dbias.data_ptr() if centred else 0
        call("norm_backward", _NORM.pack(*head, *given, 0, 0, moments.data_ptr(), *grads, last))
    return dx, dweight.sum(0).to(weight.dtype), dbias.sum(0).to(weight.dtype)
