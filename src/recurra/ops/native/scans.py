"""Calls of the gated linear recurrence (csrc/linear.h)."""

import math
import struct

import torch
from torch import Tensor

from recurra.ops.native.layout import advise, as_rows, empty_as, empty_rows, pointer, view_of, views_of
from recurra.ops.native.library import DTYPES, call, require, threads_for
from recurra.ops.native.products import matvec_fields
from recurra.ops.quantized import Quantized

# The order is that of the `Gate` enumeration in csrc/abi.h.
GATES = {
    "linear": 0,
    "mingru_positive": 1,
    "mingru_linear": 2,
    "mingru_tanh": 3,
    "minlstm_positive": 4,
    "minlstm_linear": 5,
    "minlstm_tanh": 6,
    "minlstm_unnormalized_positive": 7,
    "minlstm_unnormalized_linear": 8,
    "minlstm_unnormalized_tanh": 9,
}
_SCAN = struct.Struct("37q")
_LAYER_STEP = struct.Struct("38q 112x")  # a Matvec, and a Scan whose backward fields stay zero


def scan(
    gate: str,
    inputs: tuple[Tensor, ...],
    h_0: Tensor,
    reset: Tensor | None,
    lengths: Tensor | None,
    reverse: bool,
) -> tuple[Tensor, Tensor]:
    """(y, h_n) of a gated linear recurrence. inputs: a and b, or one tensor of fused gates."""
    require(*inputs)
    xs, h_0 = tuple(as_rows(x) for x in inputs), h_0.contiguous()
    batch, time = xs[0].shape[:2]
    width = math.prod(h_0.shape[1:])
    y = advise(empty_as(inputs[1]) if len(inputs) == 2 else empty_rows(inputs[0], width))
    if not y.numel():
        return y, h_0.clone()
    h_n = torch.empty_like(h_0)
    fields = (GATES[gate], DTYPES[y.dtype], reverse, threads_for(y.numel()), batch, time, width)
    masks = (pointer(reset), pointer(lengths))
    record = _SCAN.pack(
        *fields,
        *masks,
        *views_of(xs, width),
        *view_of(as_rows(y)),
        h_0.data_ptr(),
        h_n.data_ptr(),
        *(0,) * 14,
    )
    call("scan_forward", record)
    return y, h_n


def scan_backward(
    gate: str,
    dy: Tensor,
    dh_n: Tensor,
    inputs: tuple[Tensor, ...],
    h_0: Tensor,
    y: Tensor,
    reset: Tensor | None,
    lengths: Tensor | None,
    reverse: bool,
) -> tuple[tuple[Tensor, ...], Tensor]:
    """Gradients of every input and of h_0, from those of y and h_n."""
    require(*inputs, y)
    xs, h_0, dh_n = tuple(as_rows(x) for x in inputs), h_0.contiguous(), dh_n.to(h_0.dtype).contiguous()
    batch, time = xs[0].shape[:2]
    width = math.prod(h_0.shape[1:])
    dxs = tuple(advise(empty_as(x)) for x in inputs)
    if not y.numel():
        return dxs, dh_n.clone()
    dh_0, y, dy, rows = torch.empty_like(h_0), as_rows(y), as_rows(dy.to(y.dtype)), tuple(map(as_rows, dxs))
    fields = (GATES[gate], DTYPES[y.dtype], reverse, threads_for(y.numel()), batch, time, width)
    masks = (pointer(reset), pointer(lengths))
    states = (h_0.data_ptr(), 0, *view_of(dy), dh_n.data_ptr())
    record = _SCAN.pack(
        *fields, *masks, *views_of(xs, width), *view_of(y), *states, *views_of(rows, width), dh_0.data_ptr()
    )
    call("scan_backward", record)
    return dxs, dh_0


def layer_step(
    gate: str, x: Tensor, weight: Tensor | Quantized, bias: Tensor | None, h: Tensor
) -> tuple[Tensor, Tensor]:
    """(y, h_n) of one step of a layer in one call: `matvec`, then the recurrence over its gates (unchecked).

    x [B, I], weight [parts * D, I], bias and h [B, D] contiguous; h in the state's dtype, and where that
    is the dtype of x, y is h_n.
    """
    (batch, width), dtype, outputs = h.shape, x.dtype, weight.shape[0]
    gates, h_n = x.new_empty(batch, outputs), torch.empty_like(h)
    y = h_n if h.dtype == dtype else x.new_empty(batch, width)
    at, skip = gates.data_ptr(), gates.element_size() * width
    record = _LAYER_STEP.pack(
        *matvec_fields(x, weight, bias, None, gates),
        *(GATES[gate], DTYPES[dtype], 0, 1, batch, 1, width, 0, 0),
        *(at, outputs, 0, at + skip, outputs, 0, at + 2 * skip, outputs, 0),
        *(y.data_ptr(), width, 0, h.data_ptr(), h_n.data_ptr()),
    )
    call("layer_step", record)
    return y, h_n
