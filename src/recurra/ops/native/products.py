"""Calls of the matrix products (csrc/product.h, csrc/matvec.h)."""

import math
import struct
from collections.abc import Sequence

import torch
from torch import Tensor

from recurra.ops.native.layout import advise, flat_rows, pointer, rows_of
from recurra.ops.native.library import DTYPES, available, call, require, require_library, threads_for

_MATVEC = struct.Struct("13q")
_PRODUCT = struct.Struct("14q")


def matvec_fields(
    x: Tensor, weight: Tensor, bias: Tensor | None, added: Tensor | None, y: Tensor
) -> tuple[int, ...]:
    """The record of `matvec`: x [..., I], y [..., O], weight [O, I]."""
    outputs, inputs = weight.shape
    fields = DTYPES[x.dtype], threads_for(weight.numel() // 8), x.numel() // inputs, 1, inputs, outputs
    vectors = weight.data_ptr(), pointer(bias), pointer(added)
    return *fields, x.data_ptr(), inputs, *vectors, y.data_ptr(), outputs


def matvec(x: Tensor, weight: Tensor, bias: Tensor | None, added: Tensor | None = None) -> Tensor:
    """x W^T + bias + added for few rows; x [..., I], weight [O, I]; contiguous, of one dtype (unchecked)."""
    y = x.new_empty(*x.shape[:-1], weight.shape[0])
    call("matvec", _MATVEC.pack(*matvec_fields(x, weight, bias, added, y)))
    return y


def block_product(xs: Sequence[Tensor], weights: Sequence[Tensor]) -> Tensor:
    """Few rows of each x [..., N I] times its weights [P, N, O, I]: P products of N blocks, side by side.

    weights contiguous, all of one dtype (unchecked).
    """
    widths = [math.prod(w.shape[:3]) for w in weights]
    y = xs[0].new_empty(*xs[0].shape[:-1], sum(widths))
    for x, weight, to in zip(xs, weights, flat_rows(y).split(widths, 1), strict=True):
        rows, (parts, *sizes) = flat_rows(x), weight.shape
        for w, part in zip(weight, to.chunk(parts, 1), strict=True):
            fields = DTYPES[x.dtype], threads_for(w.numel() // 8), len(rows), sizes[0], sizes[2], sizes[1]
            call("matvec", _MATVEC.pack(*fields, *rows_of(rows), w.data_ptr(), 0, 0, *rows_of(part)))
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
