"""Calls of the norm (csrc/norm.h)."""

import struct

import torch
from torch import Tensor

from recurra.ops.native.layout import advise, pointer
from recurra.ops.native.library import DTYPES, STATES, call, threads_for

_NORM = struct.Struct("4qd10q")
_BLOCK = 64  # kNormBlock in csrc/abi.h


def norm(
    x: Tensor, weight: Tensor, added: Tensor | None, eps: float, keep: bool = True
) -> tuple[Tensor, Tensor, Tensor]:
    """(x + added, or x; its norm; the scale of each row), everything contiguous and of one dtype.

    keep: whether a backward pass will need the scale.
    """
    y, total = advise(torch.empty_like(x)), x if added is None else advise(torch.empty_like(x))
    scale = x.new_empty(x.shape[:-1] if keep else (0,), dtype=STATES[x.dtype])
    width = x.shape[-1]
    if not x.numel():
        return total, y, scale
    sums = (0 if added is None else total.data_ptr(), y.data_ptr(), scale.data_ptr() if keep else 0)
    head = (DTYPES[x.dtype], threads_for(x.numel()), x.numel() // width, width, eps)
    tensors = (x.data_ptr(), pointer(added), weight.data_ptr())
    call("norm_forward", _NORM.pack(*head, *tensors, *sums, 0, 0, 0, 0))
    return total, y, scale


def norm_backward(
    dsum: Tensor | None, dy: Tensor, x: Tensor, weight: Tensor, scale: Tensor
) -> tuple[Tensor, Tensor]:
    """Gradients of the sum x and of weight, from those of the sum and of its norm; all contiguous."""
    width, dx = x.shape[-1], advise(torch.empty_like(x))
    rows = x.numel() // max(width, 1)
    dweight = scale.new_empty(-(-rows // _BLOCK), width)
    if x.numel():
        head = (DTYPES[x.dtype], threads_for(x.numel()), rows, width, 0.0)
        tensors = (x.data_ptr(), 0, weight.data_ptr(), 0, 0, scale.data_ptr())
        grads = (pointer(dsum), dy.data_ptr(), dx.data_ptr(), dweight.data_ptr())
        call("norm_backward", _NORM.pack(*head, *tensors, *grads))
    return dx, dweight.sum(0).to(weight.dtype)
