"""Calls of the matrix products (csrc/product.h, csrc/matvec.h)."""

import struct

import torch
from torch import Tensor

from recurra.ops.native.layout import advise, pointer
from recurra.ops.native.library import DTYPES, available, call, require, require_library, threads_for

_MATVEC = struct.Struct("10q")
_PRODUCT = struct.Struct("14q")


def matvec_fields(
    x: Tensor, weight: Tensor, bias: Tensor | None, added: Tensor | None, y: Tensor
) -> tuple[int, ...]:
    """The record of `matvec`."""
    outputs, inputs = weight.shape
    threads = threads_for(outputs * inputs // 8)
    pointers = (x.data_ptr(), weight.data_ptr(), pointer(bias), pointer(added), y.data_ptr())
    return DTYPES[x.dtype], threads, x.numel() // inputs, inputs, outputs, *pointers


def matvec(x: Tensor, weight: Tensor, bias: Tensor | None, added: Tensor | None = None) -> Tensor:
    """x W^T + bias + added for few rows; x [..., I], weight [O, I]; contiguous, of one dtype (unchecked)."""
    y = x.new_empty(*x.shape[:-1], weight.shape[0])
    call("matvec", _MATVEC.pack(*matvec_fields(x, weight, bias, added, y)))
    return y


@torch.compiler.assume_constant_result  # type: ignore[untyped-decorator]
def prefers_product() -> bool:
    """True where `product` is faster than torch's own on this machine."""
    return available() and bool(require_library().recurra_prefers_product())


def product(x: Tensor, weight: Tensor, bias: Tensor | None, added: Tensor | None = None) -> Tensor:
    """x W^T + bias + added in fp32; x [rows, I] and weight [O, I] of any strides, added contiguous."""
    require(x, weight)
    (rows, depth), columns = x.shape, weight.shape[0]
    strips = 32 if weight.stride(0) == 1 else min(-(-columns // 32) * 32, 512)
    y, scratch = advise(x.new_empty(rows, columns)), x.new_empty(depth * strips)
    threads = threads_for(rows * columns)
    a = (x.data_ptr(), x.stride(0), x.stride(1))
    b = (weight.data_ptr(), weight.stride(1), weight.stride(0))
    rest = (pointer(bias), pointer(added), y.data_ptr(), scratch.data_ptr())
    call("product", _PRODUCT.pack(threads, rows, columns, depth, *a, *b, *rest))
    return y
