"""Calls of the matrix products (csrc/product.h, csrc/matvec.h)."""

import math
import struct
from collections.abc import Sequence

import torch
from torch import Tensor

from recurra.ops.native.layout import advise, flat_rows, pointer, rows_of
from recurra.ops.native.library import DTYPES, STATES, available, call, require, require_library, threads_for
from recurra.ops.quantized import Quantized

_MATVEC = struct.Struct("15q")
_PRODUCT = struct.Struct("14q")
_FOURS = struct.Struct("13q")
_FOURS_ROWS = 64  # kFoursRows in csrc/abi.h
_WEIGHTS = {**DTYPES, torch.int8: 5}


def _matrix(x: Tensor, weight: Tensor | Quantized) -> tuple[tuple[int, ...], tuple[int, int]]:
    """Both dtypes and the threads; where the numbers of weight and its scale begin."""
    numbers, scale = (weight.numbers, weight.scale) if isinstance(weight, Quantized) else (weight, None)
    kinds = DTYPES[x.dtype], _WEIGHTS[numbers.dtype], threads_for(weight.numel() // 8)
    return kinds, (numbers.data_ptr(), pointer(scale))


def matvec_fields(
    x: Tensor, weight: Tensor | Quantized, bias: Tensor | None, added: Tensor | None, y: Tensor
) -> tuple[int, ...]:
    """The record of `matvec`: x [..., I], y [..., O], weight [O, I]."""
    (outputs, inputs), (kinds, matrix) = weight.shape, _matrix(x, weight)
    sizes, vectors = (x.numel() // inputs, 1, inputs, outputs), (pointer(bias), pointer(added))
    return *kinds, *sizes, x.data_ptr(), inputs, *matrix, *vectors, y.data_ptr(), outputs


def matvec(x: Tensor, weight: Tensor | Quantized, bias: Tensor | None, added: Tensor | None = None) -> Tensor:
    """x W^T + bias + added for few rows; x [..., I], weight [O, I]; contiguous, of one dtype (unchecked).

    Of a quantized weight x has no more than 16 rows.
    """
    y = x.new_empty(*x.shape[:-1], weight.shape[0])
    call("matvec", _MATVEC.pack(*matvec_fields(x, weight, bias, added, y)))
    return y


def block_product(xs: Sequence[Tensor], weights: Sequence[Tensor | Quantized]) -> Tensor:
    """Few rows of each x [..., N I] times its weights [P, N, O, I]: P products of N blocks, side by side.

    weights contiguous, all of one dtype (unchecked); of a quantized one x has no more than 16 rows.
    """
    widths = [math.prod(w.shape[:3]) for w in weights]
    y = xs[0].new_empty(*xs[0].shape[:-1], sum(widths))
    for x, weight, to in zip(xs, weights, flat_rows(y).split(widths, 1), strict=True):
        rows, (parts, blocks, outputs, inputs) = flat_rows(x), weight.shape
        for i, part in enumerate(to.chunk(parts, 1)):
            kinds, matrix = _matrix(x, weight[i])
            sizes = len(rows), blocks, inputs, outputs
            call("matvec", _MATVEC.pack(*kinds, *sizes, *rows_of(rows), *matrix, 0, 0, *rows_of(part)))
    return y


def _fours(x: Tensor, weight: Tensor, y: Tensor) -> tuple[int, ...]:
    """Where the three lie: x [rows, 4 N], weight [P, N, 4, 4] contiguous, y [rows, P times 4 N]."""
    head = (DTYPES[x.dtype], threads_for(y.numel()), len(x), *weight.shape[1::-1])
    return *head, *rows_of(x), weight.data_ptr(), *rows_of(y)


def fours(xs: Sequence[Tensor], weights: Sequence[Tensor]) -> Tensor:
    """Any number of rows of each x [..., 4 N] times its weights [P, N, 4, 4], side by side."""
    require(*xs, *weights)
    y = advise(xs[0].new_empty(*xs[0].shape[:-1], sum(w.numel() // 4 for w in weights)))
    for x, weight, part in zip(xs, weights, _of_each(y, weights), strict=True):
        rows, blocks = flat_rows(x), weight.contiguous()  # copies must outlive the call
        call("fours_forward", _FOURS.pack(*_fours(rows, blocks, part), 0, 0, 0))
    return y


def fours_backward(dy: Tensor, xs: Sequence[Tensor], weights: Sequence[Tensor]) -> list[Tensor]:
    """Gradients of all xs, then of all weights."""
    require(dy, *xs, *weights)
    dxs, dweights = [advise(x.new_empty(x.shape)) for x in xs], []
    for x, dx, weight, part in zip(xs, dxs, weights, _of_each(dy, weights), strict=True):
        sums = -(-len(part) // _FOURS_ROWS)
        dweight = weight.new_empty(sums, *weight.shape, dtype=STATES[x.dtype])
        rows, blocks = flat_rows(x), weight.contiguous()  # copies must outlive the call
        record = *_fours(rows, blocks, part), *rows_of(flat_rows(dx)), dweight.data_ptr()
        call("fours_backward", _FOURS.pack(*record))
        dweights.append(dweight.sum(0).to(weight.dtype))
    return [*dxs, *dweights]


def _of_each(y: Tensor, weights: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """The rows of y that each x gives."""
    parts: tuple[Tensor, ...] = flat_rows(y).split([w.numel() // 4 for w in weights], 1)
    return parts


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
