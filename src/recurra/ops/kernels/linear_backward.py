# mypy: disable-error-code="no-untyped-def, untyped-decorator, no-untyped-call, import-untyped, assignment"
# Triton reads the kernels as its own language: their arguments have no types of Python.
"""The backward kernels of `linear`.

The gradient walks the other way. Between steps it is c = a g, with g the gradient of h_t: a step takes it
from c to a (dy + c).
"""

import triton
import triton.language as tl

from recurra.ops.kernels.gates import gates, pullback
from recurra.ops.kernels.tiles import (
    advance,
    begin_state,
    clear,
    enter,
    is_cut,
    is_live,
    join,
    last,
    load,
    load_parts,
    moment,
    place,
    span,
    store,
)


@triton.jit
def _backward_tile(
    x0, x1, dy, reset, row, start, end, length, time, width, runs, channels, CELL: tl.constexpr,
    CANDIDATE: tl.constexpr, PARTS: tl.constexpr, REVERSE: tl.constexpr, RUN: tl.constexpr,
    WHOLE: tl.constexpr,
):  # fmt: skip
    """The inputs, the gradient of y, a and the cuts of every step of the runs, and each run as one step."""
    CUTS: tl.constexpr = reset is not None
    xs, ds, a_s, cuts, a_run, b_run = (), (), (), (), 1.0, 0.0
    first = moment(start, length, REVERSE)
    for u in tl.static_range(RUN):
        live = is_live(start + runs + u, end, WHOLE)
        mask = live & (channels < width)
        v0, v1, v2 = load_parts(x0, x1, row, first, runs + u, channels, mask, width, PARTS, REVERSE)
        d = load(dy, row, first, runs + u, channels, mask, REVERSE)
        a, _ = gates(v0, v1, v2, CELL, CANDIDATE)
        if CUTS:
            cut = is_cut(reset, row, moment(start + runs + u, length, REVERSE), live, length, time, REVERSE)
            a, cuts = tl.where(cut, 0.0, a), cuts + (cut,)
        if not WHOLE:
            a = tl.where(live, a, 1.0)
        a_run, b_run = advance(a, 0.0, a_run, CUTS), advance(a, 0.0, b_run + d, CUTS)
        xs, ds, a_s = xs + ((v0, v1, v2),), ds + (d,), a_s + (a,)
    return xs, ds, a_s, cuts, a_run, b_run


@triton.jit
def _backward_pass(
    x0, x1, y, dy, dx0, dx1, origin, c, reset, row, start, end, length, time, width, runs, channels,
    CELL: tl.constexpr, CANDIDATE: tl.constexpr, PARTS: tl.constexpr, REVERSE: tl.constexpr,
    RUN: tl.constexpr, RUNS: tl.constexpr, WHOLE: tl.constexpr,
):  # fmt: skip
    """dx of one tile; returns c after it."""
    first, hs = moment(start, length, REVERSE), ()
    for u in tl.static_range(RUN):
        step = start + runs + u
        mask = is_live(step, end, WHOLE) & (step < length - 1) & (channels < width)
        h = load(y, row, first + 1 if REVERSE else first - 1, runs + u, channels, mask, REVERSE)
        hs = hs + (tl.where(step == length - 1, origin, h),)
    xs, ds, a_s, cuts, a, b = _backward_tile(
        x0, x1, dy, reset, row, start, end, length, time, width, runs, channels,
        CELL, CANDIDATE, PARTS, REVERSE, RUN, WHOLE,
    )  # fmt: skip
    cs = enter(a, b, c)
    for u in tl.static_range(RUN):
        g, h = ds[u] + cs, hs[u]
        if reset is not None:
            h = tl.where(cuts[u], 0.0, h)
        d0, d1, d2 = pullback(xs[u][0], xs[u][1], xs[u][2], h, g, CELL, CANDIDATE)
        mask = is_live(start + runs + u, end, WHOLE) & (channels < width)
        store(dx0, d0, row, first, runs + u, channels, mask, REVERSE)
        store(dx1, d1, row, first, runs + u, channels, mask, REVERSE)
        if PARTS == 3:
            store(dx1, d2, row, first, runs + u, channels + width, mask, REVERSE)
        cs = advance(a_s[u], 0.0, g, reset is not None)
    return last(cs, RUNS)


@triton.jit
def backward(
    x0, x1, y, dy, dx0, dx1, h_0, dh_n, dh_0, carries, reset, lengths, time, width, chunk,
    CELL: tl.constexpr, CANDIDATE: tl.constexpr, PARTS: tl.constexpr, REVERSE: tl.constexpr,
    RUN: tl.constexpr, RUNS: tl.constexpr, BLOCK_D: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    """dx, from dh_n or from c after the chunk before; the last chunk writes dh_0."""
    row, part, runs, channel = place(width, RUN, RUNS, BLOCK_D)
    begin, end, tail, length = span(lengths, row, part, chunk, time, RUN * RUNS)
    c = begin_state(dh_n, carries, row, part, width, channel)
    origin = tl.load(h_0 + row * width + channel, mask=channel < width, other=0.0)[None, :]
    for start in tl.range(begin, tail, RUN * RUNS, num_stages=STAGES):
        c = _backward_pass(
            x0, x1, y, dy, dx0, dx1, origin, c, reset, row, start, end, length, time, width, runs,
            channel[None, :], CELL, CANDIDATE, PARTS, REVERSE, RUN, RUNS, True,
        )  # fmt: skip
    if tail < end:
        c = _backward_pass(
            x0, x1, y, dy, dx0, dx1, origin, c, reset, row, tail, end, length, time, width, runs,
            channel[None, :], CELL, CANDIDATE, PARTS, REVERSE, RUN, RUNS, False,
        )  # fmt: skip
    tl.store(dh_0 + row * width + channel, c, mask=(channel < width) & (part == tl.num_programs(1) - 1))
    if lengths is not None:
        first, stop = tl.maximum(begin, length), tl.minimum(begin + chunk, time)
        clear(dx0, row, first, stop, channel[None, :], width, RUNS)
        clear(dx1, row, first, stop, channel[None, :], width, RUNS)
        if PARTS == 3:
            clear(dx1, row, first, stop, channel[None, :] + width, 2 * width, RUNS)


@triton.jit
def backward_totals(
    x0, x1, dy, decays, ends, reset, lengths, time, width, chunk,
    CELL: tl.constexpr, CANDIDATE: tl.constexpr, PARTS: tl.constexpr, REVERSE: tl.constexpr,
    RUN: tl.constexpr, RUNS: tl.constexpr, BLOCK_D: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    """What a chunk does to any c: c -> decays c + ends."""
    row, part, runs, channel = place(width, RUN, RUNS, BLOCK_D)
    begin, end, _tail, length = span(lengths, row, part, chunk, time, RUN * RUNS)
    decay, c = tl.full([BLOCK_D], 1.0, tl.float32), tl.full([BLOCK_D], 0.0, tl.float32)
    for start in tl.range(begin, end, RUN * RUNS, num_stages=STAGES):
        _, _, _, _, a, b = _backward_tile(
            x0, x1, dy, reset, row, start, end, length, time, width, runs, channel[None, :],
            CELL, CANDIDATE, PARTS, REVERSE, RUN, False,
        )  # fmt: skip
        a, b = tl.associative_scan((a, b), 0, join)
        decay, c = join(decay, c, last(a, RUNS), last(b, RUNS))
    at = (tl.cast(row, tl.int64) * tl.num_programs(1) + part) * width + channel
    tl.store(decays + at, decay, mask=channel < width)
    tl.store(ends + at, c, mask=channel < width)
