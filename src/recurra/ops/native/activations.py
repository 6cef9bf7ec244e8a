"""Calls of the activations (csrc/activation.h)."""

import struct

import torch
from torch import Tensor

from recurra.ops.native.layout import advise
from recurra.ops.native.library import DTYPES, call, threads_for

# The order is that of the `ActivationKind` enumeration in csrc/abi.h.
ACTIVATIONS = {"gelu": 0, "silu": 1, "sigmoid": 2, "relu_square": 3}
_ACTIVATION = struct.Struct("15q")


def _as_rows(x: Tensor | None) -> Tensor | None:
    """[rows, width], without a copy where the rows are equally far apart."""
    if x is None:
        return None
    x = x[None] if x.ndim < 2 else x.flatten(0, -2)
    return x if x.stride(1) == 1 else x.contiguous()


def _rows(x: Tensor | None) -> tuple[int, int]:
    """The fields of a Rows in csrc/abi.h."""
    return (0, 0) if x is None else (x.data_ptr(), x.stride(0))


def activation(kind: str, x: Tensor, factor: Tensor | None) -> Tensor:
    """f(x), times factor unless None; both of one shape [..., D], D > 0, and dtype."""
    y = advise(torch.empty(x.shape, dtype=x.dtype))
    head = (ACTIVATIONS[kind], DTYPES[x.dtype], threads_for(x.numel()), y.numel() // y.shape[-1], y.shape[-1])
    xs, factors, ys = _as_rows(x), _as_rows(factor), _as_rows(y)
    call("activation_forward", _ACTIVATION.pack(*head, *_rows(xs), *_rows(factors), *_rows(ys), 0, 0, 0, 0))
    return y


def activation_backward(
    kind: str, dy: Tensor, x: Tensor, factor: Tensor | None
) -> tuple[Tensor, Tensor | None]:
    """Gradients of x and of factor."""
    dx = advise(torch.empty(x.shape, dtype=x.dtype))
    dfactor = None if factor is None else advise(torch.empty(x.shape, dtype=x.dtype))
    head = (ACTIVATIONS[kind], DTYPES[x.dtype], threads_for(x.numel()), x.numel() // x.shape[-1], x.shape[-1])
    rows = [_as_rows(t) for t in (x, factor, dy, dx, dfactor)]
    call("activation_backward", _ACTIVATION.pack(*head, *(field for t in rows for field in _rows(t))))
    return dx, dfactor
