# mypy: disable-error-code="no-untyped-def, untyped-decorator, no-untyped-call, import-untyped, assignment"
# Triton reads the kernels as its own language: their arguments have no types of Python.
"""The backward kernels of `selective`.

The gradient of the states walks against time, chunk after chunk and a few steps at once: their states are
computed again, from the nearest one that was kept. Between steps it is c = keep g, with g that of h_t.
"""

from typing import NamedTuple

import triton
import triton.language as tl

from recurra.ops.kernels.gates import sigmoid
from recurra.ops.kernels.selective_forward import factors, parameters, place_states
from recurra.ops.kernels.tiles import View, advance, begin_state, clear, load, span, store


class Gradients(NamedTuple):
    """Views of the gradients of the inputs; of B and C one for each block of channels, [blocks, B, T, N]."""

    x: View
    delta: View
    z: View | None
    b: View
    c: View


@triton.jit
def _gated(of, dy, row, t, end, channel, width):
    """The gradient of y, that of y before its gate, and z."""
    mask = (t < end) & (channel < width)
    g = load(dy, row, t, 0, channel, mask, True)
    z, before = g, g
    if of.z is not None:
        z = load(of.z, row, t, 0, channel, mask, True)
        before = g * z * sigmoid(z)[0]
    return g, before, z


@triton.jit
def _again(
    of, entering, reset, row, start, end, length, time, width, channel, state, flat, a, bias,
    STATES: tl.constexpr, RUN: tl.constexpr, SAVED: tl.constexpr,
):  # fmt: skip
    """The states before each of RUN steps and after the last, and the factors of each."""
    whole, first = STATES * width, start // SAVED * SAVED
    at = tl.cast(row, tl.int64) * ((time + SAVED - 1) // SAVED) + start // SAVED
    h = tl.load(entering + at * whole + flat, mask=flat < whole, other=0.0)
    for t in tl.range(first, start):
        _, _, keep, add = factors(
            of, reset, row, t, end, length, time, width, channel, state, a, bias, STATES
        )
        h = advance(keep, add, h, reset is not None)
    hs, steps = (h,), ()
    for u in tl.static_range(RUN):
        x, delta, keep, add = factors(
            of, reset, row, start + u, end, length, time, width, channel, state, a, bias, STATES
        )
        h = advance(keep, add, h, reset is not None)
        hs, steps = hs + (h,), steps + ((x, delta, keep),)
    return hs, steps


@triton.jit
def _back(of, dy, row, t, end, width, channel, state, a, skip, before, after, step, c, STATES: tl.constexpr):
    """One step back: the new c, and what the step adds to every gradient."""
    x, delta, keep = step
    mask = (t < end) & (state < STATES)
    b_t, c_t = load(of.b, row, t, 0, state, mask, True), load(of.c, row, t, 0, state, mask, True)
    g, dread, z = _gated(of, dy, row, t, end, channel, width)
    gh = c + c_t[:, None] * dread[None, :]
    dc, db = tl.sum(after * dread[None, :], 1), tl.sum(gh * (delta * x)[None, :], 1)
    din = tl.sum(b_t[:, None] * gh, 0)
    c = tl.where(keep == 0, 0.0, keep * gh)
    exponent = tl.where(keep == 0, 0.0, c * before)
    # a is in units of log 2.
    ddelta = tl.sum(a * exponent, 0) * 0.6931471805599453 + x * din
    dz = g
    if of.z is not None:
        s, rest = sigmoid(z)
        dz = g * (tl.sum(c_t[:, None] * after, 0) + skip * x) * s * (1.0 + z * rest)
    return c, exponent * delta[None, :], dc, db, ddelta, delta * din + skip * dread, dz, dread * x


@triton.jit
def backward(
    of, dy, to, entering, dh_n, dh_0, da, dskip, dbias, carries, reset, lengths, time, width, chunk,
    STATES: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_D: tl.constexpr, RUN: tl.constexpr,
    SAVED: tl.constexpr,
):  # fmt: skip
    """All gradients, those of parameters for each chunk; the first program of a row takes the last chunk."""
    row, block, channel, state, flat = place_states(width, BLOCK_N, BLOCK_D, STATES)
    part, parts, whole = tl.program_id(1), tl.num_programs(1), STATES * width
    begin, end, _tail, length = span(lengths, row, parts - 1 - part, chunk, time, RUN)
    c = begin_state(dh_n, carries, row, part, whole, flat)
    a, skip, bias = parameters(of, width, channel, flat, STATES)
    sum_a, sum_skip, sum_bias = c * 0, skip * 0, skip * 0
    # That of the gradients of B and C.
    own = block * (tl.num_programs(0) // ((width + BLOCK_D - 1) // BLOCK_D)) + row
    tiles = (tl.maximum(end - begin, 0) + RUN - 1) // RUN
    for i in tl.range(0, tiles):
        start = begin + (tiles - 1 - i) * RUN
        hs, steps = _again(
            of, entering, reset, row, start, end, length, time, width, channel, state, flat, a, bias,
            STATES, RUN, SAVED,
        )  # fmt: skip
        out = ()
        for u in tl.static_range(RUN - 1, -1, -1):
            c, from_a, dc, db, ddelta, dx, dz, from_skip = _back(
                of, dy, row, start + u, end, width, channel, state, a, skip, hs[u], hs[u + 1], steps[u], c,
                STATES,
            )  # fmt: skip
            raw = load(of.delta, row, start + u, 0, channel, (start + u < end) & (channel < width), True)
            ddelta = ddelta * sigmoid(raw + bias)[0]
            sum_a, sum_skip = sum_a + from_a, sum_skip + from_skip
            sum_bias += tl.where(start + u < end, ddelta, 0.0)
            out = ((dx, ddelta, dz, db, dc),) + out
        for u in tl.static_range(RUN):
            mask = (start + u < end) & (channel < width)
            store(to.x, out[u][0], row, start, u, channel, mask, True)
            store(to.delta, out[u][1], row, start, u, channel, mask, True)
            if of.z is not None:
                store(to.z, out[u][2], row, start, u, channel, mask, True)
            store(to.b, out[u][3], own, start, u, state, (start + u < end) & (state < STATES), True)
            store(to.c, out[u][4], own, start, u, state, (start + u < end) & (state < STATES), True)
    tl.store(dh_0 + row * whole + flat, c, mask=(flat < whole) & (part == parts - 1))
    at = tl.cast(row, tl.int64) * parts + part
    tl.store(da + at * whole + flat, sum_a, mask=flat < whole)
    tl.store(dskip + at * width + channel, sum_skip, mask=channel < width)
    tl.store(dbias + at * width + channel, sum_bias, mask=channel < width)
    if lengths is not None:
        first, stop = tl.maximum(begin, length), tl.minimum(begin + chunk, time)
        clear(to.x, row, first, stop, channel[None, :], width, RUN)
        clear(to.delta, row, first, stop, channel[None, :], width, RUN)
        if of.z is not None:
            clear(to.z, row, first, stop, channel[None, :], width, RUN)
        clear(to.b, own, first, stop, state[None, :], STATES, RUN)
        clear(to.c, own, first, stop, state[None, :], STATES, RUN)


@triton.jit
def backward_totals(
    of, dy, decays, ends, reset, lengths, time, width, chunk,
    STATES: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_D: tl.constexpr, RUN: tl.constexpr,
    SAVED: tl.constexpr,
):  # fmt: skip
    """What a chunk does to any c, the last chunk first: c -> decays c + ends."""
    row, _block, channel, state, flat = place_states(width, BLOCK_N, BLOCK_D, STATES)
    part, parts, whole = tl.program_id(1), tl.num_programs(1), STATES * width
    begin, end, _tail, length = span(lengths, row, parts - 1 - part, chunk, time, RUN)
    a, _skip, bias = parameters(of, width, channel, flat, STATES)
    decay, c = tl.full([BLOCK_N, BLOCK_D], 1.0, tl.float32), tl.full([BLOCK_N, BLOCK_D], 0.0, tl.float32)
    tiles = (tl.maximum(end - begin, 0) + RUN - 1) // RUN
    for i in tl.range(0, tiles):
        for u in tl.static_range(RUN - 1, -1, -1):
            t = begin + (tiles - 1 - i) * RUN + u
            _, _, keep, _ = factors(
                of, reset, row, t, end, length, time, width, channel, state, a, bias, STATES
            )
            read = load(of.c, row, t, 0, state, (t < end) & (state < STATES), True)
            _, dread, _ = _gated(of, dy, row, t, end, channel, width)
            decay = advance(keep, 0.0, decay, reset is not None)
            c = advance(keep, 0.0, c + read[:, None] * dread[None, :], reset is not None)
    at = tl.cast(row, tl.int64) * parts + part
    tl.store(decays + at * whole + flat, decay, mask=flat < whole)
    tl.store(ends + at * whole + flat, c, mask=flat < whole)
