# mypy: disable-error-code="no-untyped-def, untyped-decorator, no-untyped-call, import-untyped, assignment"
# Triton reads the kernels as its own language: their arguments have no types of Python.
"""The forward kernels of `selective`: outputs, and what a chunk does to any state.

The states [N, D] of a block of channels stay in registers. What is read of them is asked for before
anything is written: a compiler can't know that an output overlaps no input.
"""

from typing import Any, NamedTuple

import triton
import triton.language as tl

from recurra.ops.kernels.gates import exp, inverse, sigmoid
from recurra.ops.kernels.tiles import View, advance, begin_state, clear, is_cut, load, span, store


class Inputs(NamedTuple):
    """Views of the inputs, z None where there is no gate; the parameters A [N, D], D and bias [D]."""

    x: View
    delta: View
    b: View
    c: View
    z: View | None
    a: Any
    skip: Any
    bias: Any


@triton.jit
def softplus(x):
    """log(1 + e^x) to full relative precision: 2 artanh(e / (2 + e)) is log(1 + e), here with e <= 1."""
    e = exp(-tl.abs(x))
    s = e * inverse(2.0 + e)
    q = s * s
    tail = q * (1 / 9 + q * (1 / 11 + q * (1 / 13 + q * (1 / 15))))
    return tl.maximum(x, 0.0) + 2.0 * s * (1.0 + q * (1 / 3 + q * (1 / 5 + q * (1 / 7 + tail))))


@triton.jit
def place_states(width, BLOCK_N: tl.constexpr, BLOCK_D: tl.constexpr, STATES: tl.constexpr):
    """row, block, channels [D], states [N], and where each lies in a flat [N, D]: of none beyond its end."""
    blocks = (width + BLOCK_D - 1) // BLOCK_D
    block = tl.program_id(0) % blocks
    channel, state = block * BLOCK_D + tl.arange(0, BLOCK_D), tl.arange(0, BLOCK_N)
    inside = (state < STATES)[:, None] & (channel < width)[None, :]
    flat = tl.where(inside, state[:, None] * width + channel[None, :], STATES * width)
    return tl.cast(tl.program_id(0) // blocks, tl.int64), block, channel, state, flat


@triton.jit
def parameters(of, width, channel, flat, STATES: tl.constexpr):
    """A in units of log 2, D and bias."""
    a = tl.load(of.a + flat, mask=flat < STATES * width, other=0.0) * 1.4426950408889634
    skip = tl.load(of.skip + channel, mask=channel < width, other=0.0)
    return a, skip, tl.load(of.bias + channel, mask=channel < width, other=0.0)


@triton.jit
def factors(
    of, reset, row, t, end, length, time, width, channel, state, a, bias, STATES: tl.constexpr
):  # fmt: skip
    """x, delta, and keep and add [N, D] of h = keep h + add; beyond `end` they are 0, 0, 1 and 0."""
    live = t < end
    x = load(of.x, row, t, 0, channel, live & (channel < width), True)
    raw = load(of.delta, row, t, 0, channel, live & (channel < width), True)
    b = load(of.b, row, t, 0, state, live & (state < STATES), True)
    delta = tl.where(live, softplus(raw + bias), 0.0)
    keep, add = tl.exp2(a * delta[None, :]), b[:, None] * (delta * x)[None, :]
    if reset is not None:
        keep = tl.where(is_cut(reset, row, t, live, length, time, False), 0.0, keep)
    return x, delta, keep, add


@triton.jit
def forward(
    of, y, h_0, h_n, entering, carries, reset, lengths, time, width, chunk,
    STATES: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_D: tl.constexpr, RUN: tl.constexpr,
    SAVED: tl.constexpr,
):  # fmt: skip
    """y, from h_0 or from the state after the chunk before; the last chunk writes h_n.

    entering [B, T / SAVED, N, D]: the state before every so many steps.
    """
    row, _block, channel, state, flat = place_states(width, BLOCK_N, BLOCK_D, STATES)
    begin, end, _tail, length = span(lengths, row, tl.program_id(1), chunk, time, RUN)
    whole = STATES * width
    h = begin_state(h_0, carries, row, tl.program_id(1), whole, flat)
    a, skip, bias = parameters(of, width, channel, flat, STATES)
    for start in tl.range(begin, end, RUN):
        if start % SAVED == 0:
            at = tl.cast(row, tl.int64) * ((time + SAVED - 1) // SAVED) + start // SAVED
            tl.store(entering + at * whole + flat, h, mask=flat < whole)
        ys = ()
        for u in tl.static_range(RUN):
            x, _, keep, add = factors(
                of, reset, row, start + u, end, length, time, width, channel, state, a, bias, STATES
            )
            c = load(of.c, row, start + u, 0, state, (start + u < end) & (state < STATES), True)
            h = advance(keep, add, h, reset is not None)
            value = tl.sum(c[:, None] * h, 0) + skip * x
            if of.z is not None:
                z = load(of.z, row, start + u, 0, channel, (start + u < end) & (channel < width), True)
                value = value * z * sigmoid(z)[0]
            ys = ys + (value,)
        for u in tl.static_range(RUN):
            store(y, ys[u], row, start, u, channel, (start + u < end) & (channel < width), True)
    tl.store(h_n + row * whole + flat, h, mask=(flat < whole) & (tl.program_id(1) == tl.num_programs(1) - 1))
    if lengths is not None:
        stop = tl.minimum(begin + chunk, time)
        clear(y, row, tl.maximum(begin, length), stop, channel[None, :], width, RUN)


@triton.jit
def forward_totals(
    of, decays, ends, reset, lengths, time, width, chunk,
    STATES: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_D: tl.constexpr, RUN: tl.constexpr,
    SAVED: tl.constexpr,
):  # fmt: skip
    """What a chunk does to any state: h -> decays h + ends."""
    row, _block, channel, state, flat = place_states(width, BLOCK_N, BLOCK_D, STATES)
    begin, end, _tail, length = span(lengths, row, tl.program_id(1), chunk, time, RUN)
    a, _skip, bias = parameters(of, width, channel, flat, STATES)
    decay, h = tl.full([BLOCK_N, BLOCK_D], 1.0, tl.float32), tl.full([BLOCK_N, BLOCK_D], 0.0, tl.float32)
    for start in tl.range(begin, end, RUN):
        for u in tl.static_range(RUN):
            _, _, keep, add = factors(
                of, reset, row, start + u, end, length, time, width, channel, state, a, bias, STATES
            )
            decay = advance(keep, 0.0, decay, reset is not None)
            h = advance(keep, add, h, reset is not None)
    at = tl.cast(row, tl.int64) * tl.num_programs(1) + tl.program_id(1)
    tl.store(decays + at * (STATES * width) + flat, decay, mask=flat < STATES * width)
    tl.store(ends + at * (STATES * width) + flat, h, mask=flat < STATES * width)
