"""Calls of the activations (csrc/activation.h)."""

import struct

from torch import Tensor

from recurra.ops.native.layout import advise, flat_rows, rows_of
from recurra.ops.native.library import DTYPES, call, threads_for

# The order is that of the `ActivationKind` enumeration in csrc/abi.h.
ACTIVATIONS = {
    "gelu": 0,
    "silu": 1,
    "sigmoid": 2,
    "relu_square": 3,
    "log_sigmoid": 4,
    "tanh": 5,
    "identity": 6,
}
_ACTIVATION = struct.Struct("5qd12q")


def activation(kind: str, x: Tensor, factor: Tensor | None, added: Tensor | None, scale: float) -> Tensor:
    """scale f(x / scale) factor + added, where not None; all of one shape [..., D], D > 0, and dtype."""
    y = advise(x.new_empty(x.shape))
    head = (ACTIVATIONS[kind], DTYPES[x.dtype], threads_for(x.numel()), y.numel() // y.shape[-1], y.shape[-1])
    rows = [None if t is None else flat_rows(t) for t in (x, factor, added, y)]
    fields = (field for t in rows for field in rows_of(t))
    call("activation_forward", _ACTIVATION.pack(*head, scale, *fields, 0, 0, 0, 0))
    return y


def activation_backward(
    kind: str, dy: Tensor, x: Tensor, factor: Tensor | None, scale: float
) -> tuple[Tensor, Tensor | None]:
    """Gradients of x and of factor."""
    dx = advise(x.new_empty(x.shape))
    dfactor = None if factor is None else advise(x.new_empty(x.shape))
    head = (ACTIVATIONS[kind], DTYPES[x.dtype], threads_for(x.numel()), x.numel() // x.shape[-1], x.shape[-1])
    rows = [None if t is None else flat_rows(t) for t in (x, factor, None, dy, dx, dfactor)]
    fields = (field for t in rows for field in rows_of(t))
    call("activation_backward", _ACTIVATION.pack(*head, scale, *fields))
    return dx, dfactor
