"""The selective recurrence on a GPU: what csrc/selective.h is on a CPU. Mamba, arXiv 2312.00752, section 3.2.

A program owns one row of the batch and BLOCK_D channels, with all their N states in registers, and walks
through time step by step. Where batch and channels are too few to fill a card, time is cut into chunks: the
total of each, `linear` over the totals, and the chunks from their true states. Of h one in 16 is kept for
the backward pass. Departs from the paper's section 3.3.2, where a scan over time fills the card: that costs
fewer exponentials and, with neighbouring channels side by side in memory, more exchange between threads.
"""

from functools import cache
from typing import Any

import torch
from torch import Tensor

from recurra.ops import native
from recurra.ops.kernels.linear import carries
from recurra.ops.kernels.selective_forward import Inputs, forward, forward_totals
from recurra.ops.kernels.selective_pullback import Gradients, backward, backward_totals
from recurra.ops.kernels.tiles import View
from recurra.ops.kernels.walk import Masks, Walk, as_bytes, ceil, power, split, view

Tensors = tuple[Tensor, ...]


@cache
def plan(batch: int, time: int, width: int) -> tuple[int, int, int]:
    """Steps at once, channels a program and steps a chunk. Not yet measured."""
    # With 32 channels a thread holds twice as much, and the backward pass spills registers.
    block_d = min(16, power(width))
    return 4, block_d, split(batch * ceil(width, block_d), time)


def _walk(x: Tensor, states: int, masks: Masks) -> Walk:
    batch, time, width = x.shape
    run, block_d, chunk = plan(batch, time, width)
    how: dict[str, Any] = {"STATES": states, "BLOCK_N": power(states), "BLOCK_D": block_d, "RUN": run}
    how |= {"SAVED": native.CHUNK, "num_warps": 1}
    return Walk(batch, time, ceil(width, block_d), chunk, (width,), as_bytes(*masks), how)


def _gate(z: Tensor) -> View | None:
    return view(native.as_rows(z)) if z.shape[2] else None


def _inputs(inputs: Tensors, parameters: Tensors) -> Inputs:
    x, delta, b, c = (view(native.as_rows(v)) for v in inputs[:4])
    a, skip, bias = (p.contiguous() for p in parameters)
    return Inputs(x, delta, b, c, _gate(inputs[4]), a, skip, bias)


def selective(
    inputs: Tensors, parameters: Tensors, h_0: Tensor, masks: Masks
) -> tuple[Tensor, Tensor, Tensor]:
    """As `native.selective`."""
    x, chunks = inputs[0], ceil(inputs[0].shape[1], native.CHUNK)
    y, h_0, entering = native.empty_as(x), h_0.contiguous(), h_0.new_empty(chunks * h_0.numel())
    if not y.numel():
        return y, h_0.clone(), entering
    h_n, walk, of = torch.empty_like(h_0), _walk(x, h_0.shape[1], masks), _inputs(inputs, parameters)
    with torch.cuda.device_of(x):
        carry = carries(walk, forward_totals, (of,), h_0)
        walk.launch(forward, of, view(y), h_0, h_n, entering, carry)
    return y, h_n, entering


def selective_backward(
    cotangents: tuple[Tensor, Tensor],
    inputs: Tensors,
    parameters: Tensors,
    entering: Tensor,
    masks: Masks,
) -> Tensors:
    """As `native.selective_backward`."""
    x, delta, B, _, z = inputs
    dy, dh_n = native.as_rows(cotangents[0].to(x.dtype)), cotangents[1].to(entering.dtype).contiguous()
    dx, ddelta, dz = (native.empty_as(v) for v in (x, delta, z))
    if not x.numel():
        nothing = (v.new_zeros(v.shape) for v in parameters)
        return dx, ddelta, torch.zeros_like(B), torch.zeros_like(B), dz, *nothing, dh_n.clone()
    dh_0, walk, of = torch.empty_like(dh_n), _walk(x, dh_n.shape[1], masks), _inputs(inputs, parameters)
    db, dc = dh_n.new_empty(2, walk.blocks, *B.shape)
    da = dh_n.new_empty(len(x), walk.chunks, *dh_n.shape[1:])
    dd, dbias = dh_n.new_empty(2, len(x), walk.chunks, x.shape[2])
    to = Gradients(view(dx), view(ddelta), _gate(dz), view(db.flatten(0, 1)), view(dc.flatten(0, 1)))
    with torch.cuda.device_of(x):
        carry = carries(walk, backward_totals, (of, view(dy)), dh_n)
        walk.launch(backward, of, view(dy), to, entering, dh_n, dh_0, da, dd, dbias, carry)
    dA, dD, dbias = (p.sum((0, 1)) for p in (da, dd, dbias))
    return dx, ddelta, db.sum(0).to(x.dtype), dc.sum(0).to(x.dtype), dz, dA, dD, dbias, dh_0
