# mypy: disable-error-code="no-untyped-def, untyped-decorator, no-untyped-call, import-untyped, assignment"
# Triton reads the kernels as its own language: their arguments have no types of Python.
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
import triton
import triton.language as tl
from torch import Tensor

from recurra.ops import native


class View(NamedTuple):
    """[B, T, D] with neighbouring channels side by side in memory."""

    data: Any
    batch: int
    time: int


# ----------------------------------------------------------------------------------------------
# Gates. x2 is read by the cells with three parts alone.


@triton.jit
def _exp(x):
    return tl.exp2(x * 1.4426950408889634)


@triton.jit
def _inverse(p):
    """1 / p for p in [1, 1e37]: half the instructions of a division, which takes care of all other p."""
    r = tl.rsqrt(p)
    r = r * r
    return r + r * (1.0 - p * r)


@triton.jit
def _sigmoid(x):
    """sigmoid(x) and 1 - sigmoid(x), both to full relative precision."""
    e = _exp(tl.minimum(-x, 80.0))
    s = _inverse(1.0 + e)
    return s, e * s


@triton.jit
def _quotient(phi, iota):
    """f / (f + i) and i / (f + i): of their quotient, so that two closed gates give no 0/0."""
    p_f, p_i = 1.0 + _exp(-tl.abs(phi)), 1.0 + _exp(-tl.abs(iota))
    # i/f; beyond e^80 its inverse is zero in fp32 all the same.
    q = _exp(tl.minimum(tl.minimum(iota, 0.0) - tl.minimum(phi, 0.0), 80.0)) * (p_f * _inverse(p_i))
    f = _inverse(1.0 + q)
    return f, q * f


@triton.jit
def _candidate(k, CANDIDATE: tl.constexpr):
    """The candidate and its slope."""
    if CANDIDATE == "positive":
        s, rest = _sigmoid(k)
        c, slope = tl.where(k < 0, s, k + 0.5), tl.where(k < 0, s * rest, 1.0)
    elif CANDIDATE == "tanh":
        e, kk = _exp(-2.0 * tl.abs(k)), k * k
        far = tl.where(k < 0, e - 1.0, 1.0 - e) * _inverse(1.0 + e)
        near = k * (1.0 + kk * (-1.0 / 3 + kk * (2.0 / 15 - kk * (17.0 / 315))))
        c = tl.where(kk < 0.04, near, far)
        slope = 1.0 - c * c
    else:
        c, slope = k, k * 0 + 1.0
    return c, slope


@triton.jit
def _gates(x0, x1, x2, CELL: tl.constexpr, CANDIDATE: tl.constexpr):
    """(a, b) of h = a h + b."""
    if CELL == "linear":
        a, b = x0, x1
    else:
        c, _ = _candidate(x0, CANDIDATE)
        if CELL == "mingru":
            i, a = _sigmoid(x1)
        elif CELL == "minlstm":
            a, i = _quotient(x1, x2)
        else:
            a, _ = _sigmoid(x1)
            i, _ = _sigmoid(x2)
        b = i * c
    return a, b


@triton.jit
def _pullback(x0, x1, x2, h, g, CELL: tl.constexpr, CANDIDATE: tl.constexpr):
    """Gradients of the inputs of a step from h, given that of its result."""
    d2 = g
    if CELL == "linear":
        d0, d1 = g * h, g
    else:
        c, slope = _candidate(x0, CANDIDATE)
        if CELL == "mingru":
            z, rest = _sigmoid(x1)
            d0, d1 = g * z * slope, g * (c - h) * (z * rest)
        else:
            f, f_rest = _sigmoid(x1)
            i, i_rest = _sigmoid(x2)
            if CELL == "minlstm":
                f, i = _quotient(x1, x2)
                common = g * (c - h) * (f * i)
                d1, d2 = -common * f_rest, common * i_rest
            else:
                d1, d2 = g * h * (f * f_rest), g * c * (i * i_rest)
            d0 = g * i * slope
    return d0, d1, d2


# ----------------------------------------------------------------------------------------------
# Tiles. A walk takes the steps 0 .. length - 1 of a row, in the order of time or against it.


@triton.jit
def _time(step, length, ASCENDING: tl.constexpr):
    return step if ASCENDING else length - 1 - step


@triton.jit
def _tile(x, row, first, steps, channels, ASCENDING: tl.constexpr):
    """Pointers to a tile whose first step stands at time `first`; offsets within it fit 32 bits."""
    base = x.data + tl.cast(row, tl.int64) * x.batch + tl.cast(first, tl.int64) * x.time
    return base + (steps if ASCENDING else -steps) * x.time + channels


@triton.jit
def _load(x, row, first, steps, channels, mask, ASCENDING: tl.constexpr):
    return tl.load(_tile(x, row, first, steps, channels, ASCENDING), mask=mask, other=0.0).to(tl.float32)


@triton.jit
def _inputs(x0, x1, row, first, steps, channels, mask, width, PARTS: tl.constexpr, ASCENDING: tl.constexpr):
    """The parts of a tile; the third lies beside the second."""
    v0 = _load(x0, row, first, steps, channels, mask, ASCENDING)
    v1 = _load(x1, row, first, steps, channels, mask, ASCENDING)
    v2 = v1
    if PARTS == 3:
        v2 = _load(x1, row, first, steps, channels + width, mask, ASCENDING)
    return v0, v1, v2


@triton.jit
def _store(x, value, row, first, steps, channels, mask, ASCENDING: tl.constexpr):
    value = value.to(x.data.dtype.element_ty)
    tl.store(_tile(x, row, first, steps, channels, ASCENDING), value, mask=mask)


@triton.jit
def _clear(x, row, start, end, channels, width, ROWS: tl.constexpr):
    steps = tl.arange(0, ROWS)[:, None]
    for first in tl.range(start, end, ROWS):
        mask = (first + steps < end) & (channels < width)
        tl.store(_tile(x, row, first, steps, channels, True), 0.0, mask=mask)


@triton.jit
def _cut(reset, row, at, live, length, time, REVERSE: tl.constexpr):
    """True where the state is forgotten before this step; backwards a cut lies on its other side."""
    at = at + 1 if REVERSE else at
    flags = reset + tl.cast(row, tl.int64) * time + at
    return tl.load(flags, mask=live & (at < length), other=0) != 0


@triton.jit
def _live(step, end, WHOLE: tl.constexpr):
    """True for steps before `end`: in a whole tile all are, and the compiler may know."""
    return step >= 0 if WHOLE else step < end


@triton.jit
def _span(lengths, row, part, chunk, time, TILE: tl.constexpr):
    """First step and end of a chunk, where its last tile begins if not whole, and the length of the row."""
    length = time
    if lengths is not None:
        length = tl.minimum(tl.maximum(tl.load(lengths + row), 0), time).to(tl.int32)
    begin = part * chunk
    end = tl.minimum(begin + chunk, length)
    return begin, end, begin + tl.maximum(end - begin, 0) // TILE * TILE, length


# ----------------------------------------------------------------------------------------------
# Scans.


@triton.jit
def _join(a1, b1, a2, b2):
    """One step h -> a h + b after another. A factor of zero forgets even what is not finite."""
    forget = a2 == 0
    return tl.where(forget, 0.0, a2 * a1), tl.where(forget, b2, a2 * b1 + b2)


@triton.jit
def _join_before(a1, b1, p1, q1, a2, b2, p2, q2):
    """As `_join`; p, q lead to the state before the last step."""
    a, b = _join(a1, b1, a2, b2)
    p, q = _join(a1, b1, p2, q2)
    return a, b, p, q


@triton.jit
def _advance(a, b, h, CUTS: tl.constexpr):
    """a h + b; where there may be cuts, a factor of zero is one."""
    after = a * h + b
    return tl.where(a == 0, b, after) if CUTS else after


@triton.jit
def _enter(a, b, h):
    """The state [RUNS, BLOCK_D] before each run of a tile, whose totals are a, b; h before the first."""
    _, _, p, q = tl.associative_scan((a, b, a * 0 + 1, b * 0), 0, _join_before)
    return tl.where(p == 0, q, p * h[None, :] + q)


@triton.jit
def _last(x, RUNS: tl.constexpr):
    return tl.sum(tl.where(tl.arange(0, RUNS)[:, None] == RUNS - 1, x, 0.0), 0)


@triton.jit
def _start(h_0, carries, row, part, width, channel):
    """The state before a chunk: `carries` [B, chunks, D] holds those after each."""
    inside = channel < width
    h = tl.load(h_0 + row * width + channel, mask=inside, other=0.0)
    if carries is not None:
        before = tl.cast(row, tl.int64) * tl.num_programs(1) + part - 1
        later = tl.load(carries + before * width + channel, mask=inside & (part > 0), other=0.0)
        h = tl.where(part == 0, h, later)
    return h


@triton.jit
def _place(width, RUN: tl.constexpr, RUNS: tl.constexpr, BLOCK_D: tl.constexpr):
    """row, chunk, first step of each run [RUNS, 1] and channels [BLOCK_D] of this program."""
    blocks = (width + BLOCK_D - 1) // BLOCK_D
    channel = (tl.program_id(0) % blocks) * BLOCK_D + tl.arange(0, BLOCK_D)
    return tl.program_id(0) // blocks, tl.program_id(1), tl.arange(0, RUNS)[:, None] * RUN, channel


@triton.jit
def _forward_tile(
    x0, x1, reset, row, start, end, length, time, width, runs, channels, CELL: tl.constexpr,
    CANDIDATE: tl.constexpr, PARTS: tl.constexpr, REVERSE: tl.constexpr, RUN: tl.constexpr,
    WHOLE: tl.constexpr,
):  # fmt: skip
    """a and b of every step of the runs, and of each run; beyond `end` they keep the state."""
    CUTS: tl.constexpr = reset is not None
    a_s, b_s, a_run, b_run = (), (), 1.0, 0.0
    first = _time(start, length, not REVERSE)
    for u in tl.static_range(RUN):
        live = _live(start + runs + u, end, WHOLE)
        v0, v1, v2 = _inputs(
            x0, x1, row, first, runs + u, channels, live & (channels < width), width, PARTS, not REVERSE
        )
        a, b = _gates(v0, v1, v2, CELL, CANDIDATE)
        if CUTS:
            cut = _cut(reset, row, _time(start + runs + u, length, not REVERSE), live, length, time, REVERSE)
            a = tl.where(cut, 0.0, a)
        if not WHOLE:
            a, b = tl.where(live, a, 1.0), tl.where(live, b, 0.0)
        a_run, b_run = _advance(a, 0.0, a_run, CUTS), _advance(a, b, b_run, CUTS)
        a_s, b_s = a_s + (a,), b_s + (b,)
    return a_s, b_s, a_run, b_run


@triton.jit
def _forward_pass(
    x0, x1, y, h, reset, row, start, end, length, time, width, runs, channels, CELL: tl.constexpr,
    CANDIDATE: tl.constexpr, PARTS: tl.constexpr, REVERSE: tl.constexpr,
    RUN: tl.constexpr, RUNS: tl.constexpr, WHOLE: tl.constexpr,
):  # fmt: skip
    """y of one tile; returns the state after it."""
    a_s, b_s, a, b = _forward_tile(
        x0, x1, reset, row, start, end, length, time, width, runs, channels,
        CELL, CANDIDATE, PARTS, REVERSE, RUN, WHOLE,
    )  # fmt: skip
    hs, first = _enter(a, b, h), _time(start, length, not REVERSE)
    for u in tl.static_range(RUN):
        hs = _advance(a_s[u], b_s[u], hs, reset is not None)
        mask = _live(start + runs + u, end, WHOLE) & (channels < width)
        _store(y, hs, row, first, runs + u, channels, mask, not REVERSE)
    return _last(hs, RUNS)


@triton.jit
def _forward(
    x0, x1, y, h_0, h_n, carries, reset, lengths, time, width, chunk,
    CELL: tl.constexpr, CANDIDATE: tl.constexpr, PARTS: tl.constexpr, REVERSE: tl.constexpr,
    RUN: tl.constexpr, RUNS: tl.constexpr, BLOCK_D: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    """y, from h_0 or from the state after the chunk before; the last chunk writes h_n."""
    row, part, runs, channel = _place(width, RUN, RUNS, BLOCK_D)
    begin, end, tail, length = _span(lengths, row, part, chunk, time, RUN * RUNS)
    h = _start(h_0, carries, row, part, width, channel)
    for start in tl.range(begin, tail, RUN * RUNS, num_stages=STAGES):
        h = _forward_pass(
            x0, x1, y, h, reset, row, start, end, length, time, width, runs, channel[None, :],
            CELL, CANDIDATE, PARTS, REVERSE, RUN, RUNS, True,
        )  # fmt: skip
    if tail < end:
        h = _forward_pass(
            x0, x1, y, h, reset, row, tail, end, length, time, width, runs, channel[None, :],
            CELL, CANDIDATE, PARTS, REVERSE, RUN, RUNS, False,
        )  # fmt: skip
    tl.store(h_n + row * width + channel, h, mask=(channel < width) & (part == tl.num_programs(1) - 1))
    if lengths is not None:
        first, stop = tl.maximum(begin, length), tl.minimum(begin + chunk, time)
        _clear(y, row, first, stop, channel[None, :], width, RUNS)


@triton.jit
def _forward_totals(
    x0, x1, decays, ends, reset, lengths, time, width, chunk,
    CELL: tl.constexpr, CANDIDATE: tl.constexpr, PARTS: tl.constexpr, REVERSE: tl.constexpr,
    RUN: tl.constexpr, RUNS: tl.constexpr, BLOCK_D: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    """What a chunk does to any state: h -> decays h + ends."""
    row, part, runs, channel = _place(width, RUN, RUNS, BLOCK_D)
    begin, end, _tail, length = _span(lengths, row, part, chunk, time, RUN * RUNS)
    decay, h = tl.full([BLOCK_D], 1.0, tl.float32), tl.full([BLOCK_D], 0.0, tl.float32)
    for start in tl.range(begin, end, RUN * RUNS, num_stages=STAGES):
        _, _, a, b = _forward_tile(
            x0, x1, reset, row, start, end, length, time, width, runs, channel[None, :],
            CELL, CANDIDATE, PARTS, REVERSE, RUN, False,
        )  # fmt: skip
        a, b = tl.associative_scan((a, b), 0, _join)
        decay, h = _join(decay, h, _last(a, RUNS), _last(b, RUNS))
    at = (tl.cast(row, tl.int64) * tl.num_programs(1) + part) * width + channel
    tl.store(decays + at, decay, mask=channel < width)
    tl.store(ends + at, h, mask=channel < width)


# ----------------------------------------------------------------------------------------------
# The gradient walks the other way. Between steps it is c = a g, with g the gradient of h_t: a step
# takes it from c to a (dy + c).


@triton.jit
def _backward_tile(
    x0, x1, dy, reset, row, start, end, length, time, width, runs, channels, CELL: tl.constexpr,
    CANDIDATE: tl.constexpr, PARTS: tl.constexpr, REVERSE: tl.constexpr, RUN: tl.constexpr,
    WHOLE: tl.constexpr,
):  # fmt: skip
    """The inputs, the gradient of y, a and the cuts of every step of the runs, and each run as one step."""
    CUTS: tl.constexpr = reset is not None
    xs, ds, a_s, cuts, a_run, b_run = (), (), (), (), 1.0, 0.0
    first = _time(start, length, REVERSE)
    for u in tl.static_range(RUN):
        live = _live(start + runs + u, end, WHOLE)
        mask = live & (channels < width)
        v0, v1, v2 = _inputs(x0, x1, row, first, runs + u, channels, mask, width, PARTS, REVERSE)
        d = _load(dy, row, first, runs + u, channels, mask, REVERSE)
        a, _ = _gates(v0, v1, v2, CELL, CANDIDATE)
        if CUTS:
            cut = _cut(reset, row, _time(start + runs + u, length, REVERSE), live, length, time, REVERSE)
            a, cuts = tl.where(cut, 0.0, a), cuts + (cut,)
        if not WHOLE:
            a = tl.where(live, a, 1.0)
        a_run, b_run = _advance(a, 0.0, a_run, CUTS), _advance(a, 0.0, b_run + d, CUTS)
        xs, ds, a_s = xs + ((v0, v1, v2),), ds + (d,), a_s + (a,)
    return xs, ds, a_s, cuts, a_run, b_run


@triton.jit
def _backward_pass(
    x0, x1, y, dy, dx0, dx1, origin, c, reset, row, start, end, length, time, width, runs, channels,
    CELL: tl.constexpr, CANDIDATE: tl.constexpr, PARTS: tl.constexpr, REVERSE: tl.constexpr,
    RUN: tl.constexpr, RUNS: tl.constexpr, WHOLE: tl.constexpr,
):  # fmt: skip
    """dx of one tile; returns c after it."""
    first, hs = _time(start, length, REVERSE), ()
    for u in tl.static_range(RUN):
        step = start + runs + u
        mask = _live(step, end, WHOLE) & (step < length - 1) & (channels < width)
        h = _load(y, row, first + 1 if REVERSE else first - 1, runs + u, channels, mask, REVERSE)
        hs = hs + (tl.where(step == length - 1, origin, h),)
    xs, ds, a_s, cuts, a, b = _backward_tile(
        x0, x1, dy, reset, row, start, end, length, time, width, runs, channels,
        CELL, CANDIDATE, PARTS, REVERSE, RUN, WHOLE,
    )  # fmt: skip
    cs = _enter(a, b, c)
    for u in tl.static_range(RUN):
        g, h = ds[u] + cs, hs[u]
        if reset is not None:
            h = tl.where(cuts[u], 0.0, h)
        d0, d1, d2 = _pullback(xs[u][0], xs[u][1], xs[u][2], h, g, CELL, CANDIDATE)
        mask = _live(start + runs + u, end, WHOLE) & (channels < width)
        _store(dx0, d0, row, first, runs + u, channels, mask, REVERSE)
        _store(dx1, d1, row, first, runs + u, channels, mask, REVERSE)
        if PARTS == 3:
            _store(dx1, d2, row, first, runs + u, channels + width, mask, REVERSE)
        cs = _advance(a_s[u], 0.0, g, reset is not None)
    return _last(cs, RUNS)


@triton.jit
def _backward(
    x0, x1, y, dy, dx0, dx1, h_0, dh_n, dh_0, carries, reset, lengths, time, width, chunk,
    CELL: tl.constexpr, CANDIDATE: tl.constexpr, PARTS: tl.constexpr, REVERSE: tl.constexpr,
    RUN: tl.constexpr, RUNS: tl.constexpr, BLOCK_D: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    """dx, from dh_n or from c after the chunk before; the last chunk writes dh_0."""
    row, part, runs, channel = _place(width, RUN, RUNS, BLOCK_D)
    begin, end, tail, length = _span(lengths, row, part, chunk, time, RUN * RUNS)
    c = _start(dh_n, carries, row, part, width, channel)
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
        _clear(dx0, row, first, stop, channel[None, :], width, RUNS)
        _clear(dx1, row, first, stop, channel[None, :], width, RUNS)
        if PARTS == 3:
            _clear(dx1, row, first, stop, channel[None, :] + width, 2 * width, RUNS)


@triton.jit
def _backward_totals(
    x0, x1, dy, decays, ends, reset, lengths, time, width, chunk,
    CELL: tl.constexpr, CANDIDATE: tl.constexpr, PARTS: tl.constexpr, REVERSE: tl.constexpr,
    RUN: tl.constexpr, RUNS: tl.constexpr, BLOCK_D: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    """What a chunk does to any c: c -> decays c + ends."""
    row, part, runs, channel = _place(width, RUN, RUNS, BLOCK_D)
    begin, end, _tail, length = _span(lengths, row, part, chunk, time, RUN * RUNS)
    decay, c = tl.full([BLOCK_D], 1.0, tl.float32), tl.full([BLOCK_D], 0.0, tl.float32)
    for start in tl.range(begin, end, RUN * RUNS, num_stages=STAGES):
        _, _, _, _, a, b = _backward_tile(
            x0, x1, dy, reset, row, start, end, length, time, width, runs, channel[None, :],
            CELL, CANDIDATE, PARTS, REVERSE, RUN, False,
        )  # fmt: skip
        a, b = tl.associative_scan((a, b), 0, _join)
        decay, c = _join(decay, c, _last(a, RUNS), _last(b, RUNS))
    at = (tl.cast(row, tl.int64) * tl.num_programs(1) + part) * width + channel
    tl.store(decays + at, decay, mask=channel < width)
    tl.store(ends + at, c, mask=channel < width)


# ----------------------------------------------------------------------------------------------
# Launches.


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
        carries = walk.carries(_forward_totals, views, h_0)
        walk.launch(_forward, *views, _view(native.as_rows(y)), h_0, h_n, carries)
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
        carries = walk.carries(_backward_totals, (*views, _view(dy)), dh_n)
        walk.launch(_backward, *views, _view(y), _view(dy), *grads, h_0, dh_n, dh_0, carries)
    return dxs, dh_0
