"""h_t = a_t h_{t-1} + b_t with its gates computed inside, on a GPU: what csrc/linear.h is on a CPU.

A program owns one row of the batch and BLOCK_D channels, and walks through time in tiles of BLOCK_T steps:
each tile is loaded at once and scanned in registers, and one state goes from tile to tile. Where batch and
channels are too few to fill a card, time is cut into chunks: the total of each, a scan over the totals
(the same kernel again), and the chunks from their true states. "Were RNNs All We Needed?", arXiv
2410.01201, sections 3.1 and 3.2.
"""

import math
from functools import cache
from typing import Any, NamedTuple

import torch
from torch import Tensor

from recurra.ops import native
from recurra.ops.kernels.linear_backward import backward, backward_totals
from recurra.ops.kernels.linear_forward import forward, forward_totals
from recurra.ops.kernels.tiles import View
from recurra.ops.kernels.walk import Walk, as_bytes, ceil, view


class Plan(NamedTuple):
    """How a shape is laid out: steps a run, runs and channels a tile, warps, tiles ahead, steps a chunk."""

    run: int
    runs: int
    block_d: int
    warps: int
    stages: int
    chunk: int


@cache
def plan(batch: int, time: int, width: int) -> Plan:
    """By the shape alone, so that results depend on nothing else. The numbers were measured on an H100."""
    block_d = min(32, 1 << (width - 1).bit_length())
    programs = batch * ceil(width, block_d)
    # Chunks read the inputs twice: they pay where most of a card would idle, and not for few steps.
    if programs >= 128 or time < 1024:
        return Plan(4, 16, block_d, 4, 3, ceil(time, 64) * 64)
    chunks = min(ceil(2048, programs), ceil(time, 64))
    return Plan(4, 4, block_d, 1, 3, ceil(ceil(time, chunks), 16) * 16)


def _halves(xs: tuple[Tensor, ...], width: int) -> tuple[View, View]:
    """Two views: of a and b, or of the candidate and the gates behind it."""
    x0, x1 = xs if len(xs) == 2 else (xs[0], xs[0][:, :, width:])
    return view(x0), view(x1)


def _how(gate: str, reverse: bool) -> dict[str, Any]:
    cell, _, candidate = gate.rpartition("_") if gate != "linear" else (gate, "", "")
    return {"CELL": cell, "CANDIDATE": candidate, "PARTS": 2 + cell.startswith("minlstm"), "REVERSE": reverse}


def _walk(
    gate: str, h_0: Tensor, time: int, reset: Tensor | None, lengths: Tensor | None, reverse: bool
) -> Walk:
    batch, width = h_0.shape[0], math.prod(h_0.shape[1:])
    p = plan(batch, time, width)
    sizes = {"RUN": p.run, "RUNS": p.runs, "BLOCK_D": p.block_d, "STAGES": p.stages, "num_warps": p.warps}
    how = _how(gate, reverse) | sizes
    return Walk(batch, time, ceil(width, p.block_d), p.chunk, (width,), as_bytes(reset, lengths), how)


def carries(walk: Walk, totals: Any, inputs: tuple[Any, ...], start: Tensor) -> Tensor | None:
    """The states after each chunk where there are several, else None: the same scan over their totals."""
    if walk.chunks == 1:
        return None
    decays, ends = start.new_empty(2, walk.batch, walk.chunks, math.prod(start.shape[1:]))
    walk.launch(totals, *inputs, decays, ends)
    return scan("linear", (decays, ends), start.flatten(1), None, None, False)[0]


def scan(
    gate: str,
    inputs: tuple[Tensor, ...],
    h_0: Tensor,
    reset: Tensor | None,
    lengths: Tensor | None,
    reverse: bool,
) -> tuple[Tensor, Tensor]:
    """As `native.scan`."""
    xs, h_0 = tuple(native.as_rows(x) for x in inputs), h_0.contiguous()
    y = native.empty_as(inputs[1]) if len(inputs) == 2 else native.empty_rows(inputs[0], h_0.shape[-1])
    if not y.numel():
        return y, h_0.clone()
    h_n, walk = torch.empty_like(h_0), _walk(gate, h_0, y.shape[1], reset, lengths, reverse)
    views = _halves(xs, math.prod(h_0.shape[1:]))
    with torch.cuda.device_of(h_0):
        carry = carries(walk, forward_totals, views, h_0)
        walk.launch(forward, *views, view(native.as_rows(y)), h_0, h_n, carry)
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
    """As `native.scan_backward`."""
    xs, h_0, dh_n = (
        tuple(native.as_rows(x) for x in inputs),
        h_0.contiguous(),
        dh_n.to(h_0.dtype).contiguous(),
    )
    dxs = tuple(native.empty_as(x) for x in inputs)
    if not y.numel():
        return dxs, dh_n.clone()
    dh_0, y, dy = torch.empty_like(h_0), native.as_rows(y), native.as_rows(dy.to(y.dtype))
    walk, width = _walk(gate, h_0, y.shape[1], reset, lengths, reverse), math.prod(h_0.shape[1:])
    views, grads = _halves(xs, width), _halves(tuple(map(native.as_rows, dxs)), width)
    with torch.cuda.device_of(h_0):
        carry = carries(walk, backward_totals, (*views, view(dy)), dh_n)
        walk.launch(backward, *views, view(y), view(dy), *grads, h_0, dh_n, dh_0, carry)
    return dxs, dh_0
