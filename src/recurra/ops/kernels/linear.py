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


class Plan(NamedTuple):
    """How a shape is laid out: steps a run, runs and channels a tile, warps, tiles ahead, steps a chunk."""

    run: int
    runs: int
    block_d: int
    warps: int
    stages: int
    chunk: int


def _ceil(a: int, b: int) -> int:
    return -(-a // b)


@cache
def plan(batch: int, time: int, width: int) -> Plan:
    """By the shape alone, so that results depend on nothing else. The numbers were measured on an H100."""
    block_d = min(32, 1 << (width - 1).bit_length())
    programs = batch * _ceil(width, block_d)
    # Chunks read the inputs twice: they pay where most of a card would idle, and not for few steps.
    if programs >= 128 or time < 1024:
        return Plan(4, 16, block_d, 4, 3, _ceil(time, 64) * 64)
    chunks = min(_ceil(2048, programs), _ceil(time, 64))
    return Plan(4, 4, block_d, 1, 3, _ceil(_ceil(time, chunks), 16) * 16)


def _view(x: Tensor) -> View:
    return View(x, x.stride(0), x.stride(1))


def _halves(xs: tuple[Tensor, ...], width: int) -> tuple[View, View]:
    """Two views: of a and b, or of the candidate and the gates behind it."""
    x0, x1 = xs if len(xs) == 2 else (xs[0], xs[0][:, :, width:])
    return _view(x0), _view(x1)


def _how(gate: str, reverse: bool) -> dict[str, Any]:
    cell, _, candidate = gate.rpartition("_") if gate != "linear" else (gate, "", "")
    return {"CELL": cell, "CANDIDATE": candidate, "PARTS": 2 + cell.startswith("minlstm"), "REVERSE": reverse}


class _Walk(NamedTuple):
    """What every launch over one shape shares."""

    batch: int
    time: int
    width: int
    masks: tuple[Tensor | None, Tensor | None]
    plan: Plan
    how: dict[str, Any]

    @property
    def chunks(self) -> int:
        """How many chunks time is cut into."""
        return _ceil(self.time, self.plan.chunk)

    def launch(self, kernel: Any, *args: Any) -> None:
        """Run a kernel on every row, block of channels and chunk."""
        p = self.plan
        grid = (self.batch * _ceil(self.width, p.block_d), self.chunks)
        sizes = {"RUN": p.run, "RUNS": p.runs, "BLOCK_D": p.block_d, "STAGES": p.stages, "num_warps": p.warps}
        kernel[grid](*args, *self.masks, self.time, self.width, p.chunk, **self.how, **sizes)

    def carries(self, totals: Any, inputs: tuple[View, ...], start: Tensor) -> Tensor | None:
        """The states after each chunk where there are several, else None: the same scan over their totals."""
        if self.chunks == 1:
            return None
        decays, ends = start.new_empty(2, self.batch, self.chunks, self.width)
        self.launch(totals, *inputs, decays, ends)
        return scan("linear", (decays, ends), start, None, None, False)[0]


def _walk(
    gate: str, h_0: Tensor, time: int, reset: Tensor | None, lengths: Tensor | None, reverse: bool
) -> _Walk:
    batch, width = h_0.shape[0], math.prod(h_0.shape[1:])
    masks = (None if reset is None else reset.view(torch.uint8), lengths)
    return _Walk(batch, time, width, masks, plan(batch, time, width), _how(gate, reverse))


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
    views = _halves(xs, walk.width)
    with torch.cuda.device_of(h_0):
        carries = walk.carries(forward_totals, views, h_0)
        walk.launch(forward, *views, _view(native.as_rows(y)), h_0, h_n, carries)
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
    walk = _walk(gate, h_0, y.shape[1], reset, lengths, reverse)
    views, grads = _halves(xs, walk.width), _halves(tuple(map(native.as_rows, dxs)), walk.width)
    with torch.cuda.device_of(h_0):
        carries = walk.carries(backward_totals, (*views, _view(dy)), dh_n)
        walk.launch(backward, *views, _view(y), _view(dy), *grads, h_0, dh_n, dh_0, carries)
    return dxs, dh_0
