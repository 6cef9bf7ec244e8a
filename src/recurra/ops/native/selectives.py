"""Calls of the selective recurrence (csrc/selective.h)."""

import struct

import torch
from torch import Tensor

from recurra.ops.native.layout import advise, as_rows, empty_as, flat_rows, pointer, rows_of, view_of
from recurra.ops.native.library import DTYPES, call, require, threads_for

CHUNK, _STRIP = 16, 256  # kSelectiveChunk and kSelectiveStrip in csrc/abi.h
_SELECTIVE, _STEP = struct.Struct("52q"), struct.Struct("19q")

# inputs: x, delta [B, T, D], B, C [B, T, N], z [B, T, D], or of no channels where there is no gate;
# parameters: A [N, D], D and bias [D] in the state's dtype.
Tensors = tuple[Tensor, ...]
Masks = tuple[Tensor | None, Tensor | None]


def _strip(x: Tensor) -> int:
    """Channels of a task: many, as each task adds to all of B and C, but eight tasks where there can be.

    By the shape alone: no result depends on the number of threads.
    """
    batch, _, width = x.shape
    return next((n for n in (_STRIP, _STRIP // 2) if batch * -(-width // n) >= 8), _STRIP // 4)


def _gate(z: Tensor) -> tuple[int, int, int]:
    return view_of(z) if z.shape[2] else (0, 0, 0)


def _head(inputs: Tensors, parameters: Tensors, entering: Tensor, masks: Masks) -> list[int]:
    """Everything in front of y; the caller holds on to what is pointed at."""
    *rows, z = inputs
    states, outputs = rows[2].shape[2], rows[0].numel()
    fields = (DTYPES[z.dtype], threads_for(outputs * states // 4), *rows[0].shape, states, _strip(rows[0]))
    views = [field for row in rows for field in view_of(row)]
    pointers = (p.data_ptr() for p in (*parameters, entering))
    return [*fields, *map(pointer, masks), *views, *_gate(z), *pointers]


def _laid_out(inputs: Tensors, parameters: Tensors) -> tuple[Tensors, Tensors]:
    return tuple(map(as_rows, inputs)), tuple(p.contiguous() for p in parameters)


def selective(
    inputs: Tensors, parameters: Tensors, h_0: Tensor, masks: Masks
) -> tuple[Tensor, Tensor, Tensor]:
    """(y, h_n, entering): h_0 and h_n [B, N, D], and, flat, the state before each chunk of each row."""
    require(*inputs)
    x, chunks = inputs[0], -(-inputs[0].shape[1] // CHUNK)
    y, entering = advise(empty_as(x)), advise(h_0.new_empty(chunks * h_0.numel()))
    h_0, h_n = h_0.contiguous(), h_0.new_empty(h_0.shape)
    inputs, parameters = _laid_out(inputs, parameters)
    head = _head(inputs, parameters, entering, masks)
    ends = (*view_of(y), h_0.data_ptr(), h_n.data_ptr())
    call("selective_forward", _SELECTIVE.pack(*head, *ends, *(0,) * 19))
    return y, h_n, entering


def selective_backward(
    cotangents: tuple[Tensor, Tensor],
    inputs: Tensors,
    parameters: Tensors,
    entering: Tensor,
    masks: Masks,
) -> Tensors:
    """Gradients of the inputs, the parameters and h_0."""
    require(*inputs)
    x, delta, B, _, z = inputs
    dy, dh_n = as_rows(cotangents[0].to(x.dtype)), cotangents[1].to(entering.dtype).contiguous()
    dx, ddelta, dz = (advise(empty_as(v)) for v in (x, delta, z))
    dh_0, da = torch.empty_like(dh_n), torch.empty_like(dh_n)
    dd, dbias = dh_n.new_empty(2, x.shape[0], x.shape[2])
    db, dc = dh_n.new_empty(2, -(-x.shape[2] // _strip(x)), *B.shape)
    inputs, parameters = _laid_out(inputs, parameters)
    head = (*_head(inputs, parameters, entering, masks), *(0,) * 5)
    rows = (*view_of(dy), dh_n.data_ptr(), *view_of(dx), *view_of(ddelta), *_gate(dz))
    sums = (p.data_ptr() for p in (db, dc, da, dd, dbias, dh_0))
    call("selective_backward", _SELECTIVE.pack(*head, *rows, *sums))
    dB, dC, dA, dD, dbias = (p.sum(0) for p in (db, dc, da, dd, dbias))
    return dx, ddelta, dB.to(x.dtype), dC.to(x.dtype), dz, dA, dD, dbias, dh_0


def selective_step(inputs: Tensors, parameters: Tensors, h_0: Tensor) -> tuple[Tensor, Tensor]:
    """(y, h_n) of one step: inputs x [B, D], [r | B | C] and z [B, D]; parameters W [R, D] of delta = W^T r,
    A [N, D], D and bias [D], of which all but W, and h_0 [B, N, D], are in the state's dtype (unchecked)."""
    x, y, h_n = inputs[0], inputs[0].new_empty(inputs[0].shape), h_0.new_empty(h_0.shape)
    rows, parameters, h_0 = (
        [flat_rows(v) for v in inputs],
        tuple(p.contiguous() for p in parameters),
        h_0.contiguous(),
    )
    states, rank = len(parameters[1]), len(parameters[0])
    fields = (DTYPES[x.dtype], threads_for(x.numel() * states // 4), *x.shape, states, rank)
    pointers = (v.data_ptr() for v in (*parameters, h_0, h_n, y))
    call("selective_step", _STEP.pack(*fields, *(field for v in rows for field in rows_of(v)), *pointers))
    return y, h_n
