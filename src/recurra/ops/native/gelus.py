"""Calls of the activation (csrc/gelu.h)."""

import struct

import torch
from torch import Tensor

from recurra.ops.native.layout import advise
from recurra.ops.native.library import DTYPES, call, threads_for

_GELU = struct.Struct("6q")


def gelu(x: Tensor) -> Tensor:
    """x Phi(x), x contiguous."""
    y = advise(torch.empty_like(x))
    head = (DTYPES[x.dtype], threads_for(x.numel()), x.numel())
    call("gelu_forward", _GELU.pack(*head, x.data_ptr(), 0, y.data_ptr()))
    return y


def gelu_backward(dy: Tensor, x: Tensor) -> Tensor:
    """The gradient of x, from that of `gelu`; both contiguous."""
    dx = advise(torch.empty_like(x))
    head = (DTYPES[x.dtype], threads_for(x.numel()), x.numel())
    call("gelu_backward", _GELU.pack(*head, x.data_ptr(), dy.data_ptr(), dx.data_ptr()))
    return dx
