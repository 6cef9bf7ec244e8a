"""Causal depthwise convolution on a GPU: what csrc/conv.h is on a CPU.

A program owns one row of the batch and BLOCK_D channels, and goes through a chunk of time in tiles; the
taps of a tile overlap in cache. What weight and bias receive is summed over chunks afterwards, so that
results do not depend on the order in which programs end.
"""

from functools import cache

import torch
from torch import Tensor

from recurra.ops import native
from recurra.ops.kernels.conv_forward import forward
from recurra.ops.kernels.conv_pullback import backward
from recurra.ops.kernels.walk import Walk, as_bytes, ceil, power, view


@cache
def plan(batch: int, time: int, width: int) -> tuple[int, int, int]:
    """Steps and channels a tile, and steps a chunk. Not yet measured."""
    block_d = min(64, power(width))
    rows = min(1024 // block_d, max(16, power(time)))
    programs = batch * ceil(width, block_d)
    # A grid's second side ends at 65,535.
    least = ceil(ceil(time, 65535), rows) * rows
    return rows, block_d, max(rows, least, 256 if programs * ceil(time, 256) >= 512 else 64)


def _walk(x: Tensor, positions: int, taps: int, reset: Tensor | None, lengths: Tensor | None) -> Walk:
    batch, _, width = x.shape
    rows, block_d, chunk = plan(batch, positions, width)
    how = {"TAPS": taps, "ROWS": rows, "BLOCK_D": block_d, "num_warps": 4}
    return Walk(batch, positions, ceil(width, block_d), chunk, (width,), as_bytes(reset, lengths), how)


def conv(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    state: Tensor,
    reset: Tensor | None,
    lengths: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """As `native.conv`."""
    y, x, state = native.empty_as(x), native.as_rows(x), state.contiguous()
    if not y.numel():
        return y, state.clone()
    state_n, taps = torch.empty_like(state), weight.to(state.dtype).t().contiguous()
    bias = None if bias is None else bias.to(state.dtype).contiguous()
    walk = _walk(x, x.shape[1], weight.shape[1], reset, lengths)
    with torch.cuda.device_of(x):
        walk.launch(forward, view(x), view(y), taps, bias, state, state_n)
    return y, state_n


def conv_backward(
    dy: Tensor,
    dstate_n: Tensor,
    x: Tensor,
    weight: Tensor,
    state: Tensor,
    reset: Tensor | None,
    lengths: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """As `native.conv_backward`."""
    dx, x, dy, state = (
        native.empty_as(x),
        native.as_rows(x),
        native.as_rows(dy.to(x.dtype)),
        state.contiguous(),
    )
    dstate, dstate_n = torch.empty_like(state), dstate_n.to(state.dtype).contiguous()
    batch, time, width = x.shape
    if not x.numel():
        return dx, weight.new_zeros(weight.shape), weight.new_zeros(width), dstate_n.clone()
    taps = weight.to(state.dtype).t().contiguous()
    walk = _walk(x, time + len(taps) - 1, len(taps), reset, lengths)
    dweight, dbias = (
        state.new_empty(batch, walk.chunks, *taps.shape),
        state.new_empty(batch, walk.chunks, width),
    )
    with torch.cuda.device_of(x):
        grads = (taps, state, dstate_n, dstate, dweight, dbias)
        walk.launch(backward, view(x), view(dy), view(native.as_rows(dx)), *grads)
    dweight, dbias = dweight.sum((0, 1)).t().to(weight.dtype).contiguous(), dbias.sum((0, 1)).to(weight.dtype)
    return dx, dweight, dbias, dstate
