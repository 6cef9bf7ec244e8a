# mypy: disable-error-code="no-untyped-def, untyped-decorator, no-untyped-call, import-untyped, assignment"
# Triton reads the kernels as its own language: their arguments have no types of Python.
"""Tiles of time and channels, as Triton functions: how a program finds, loads, scans and stores them.

A walk takes the steps 0 .. length - 1 of a row, in the order of time or against it.
"""

from typing import Any, NamedTuple

import triton
import triton.language as tl


class View(NamedTuple):
    """[B, T, D] with neighbouring channels side by side in memory."""

    data: Any
    batch: int
    time: int


@triton.jit
def moment(step, length, ASCENDING: tl.constexpr):
    return step if ASCENDING else length - 1 - step


@triton.jit
def tile(x, row, first, steps, channels, ASCENDING: tl.constexpr):
    """Pointers to a tile whose first step stands at time `first`; offsets within it fit 32 bits."""
    base = x.data + tl.cast(row, tl.int64) * x.batch + tl.cast(first, tl.int64) * x.time
    return base + (steps if ASCENDING else -steps) * x.time + channels


@triton.jit
def load(x, row, first, steps, channels, mask, ASCENDING: tl.constexpr):
    return tl.load(tile(x, row, first, steps, channels, ASCENDING), mask=mask, other=0.0).to(tl.float32)


@triton.jit
def load_parts(
    x0, x1, row, first, steps, channels, mask, width, PARTS: tl.constexpr, ASCENDING: tl.constexpr
):
    """The parts of a tile; the third lies beside the second."""
    v0 = load(x0, row, first, steps, channels, mask, ASCENDING)
    v1 = load(x1, row, first, steps, channels, mask, ASCENDING)
    v2 = v1
    if PARTS == 3:
        v2 = load(x1, row, first, steps, channels + width, mask, ASCENDING)
    return v0, v1, v2


@triton.jit
def store(x, value, row, first, steps, channels, mask, ASCENDING: tl.constexpr):
    value = value.to(x.data.dtype.element_ty)
    tl.store(tile(x, row, first, steps, channels, ASCENDING), value, mask=mask)


@triton.jit
def clear(x, row, start, end, channels, width, ROWS: tl.constexpr):
    steps = tl.arange(0, ROWS)[:, None]
    for first in tl.range(start, end, ROWS):
        mask = (first + steps < end) & (channels < width)
        tl.store(tile(x, row, first, steps, channels, True), 0.0, mask=mask)


@triton.jit
def is_cut(reset, row, at, live, length, time, REVERSE: tl.constexpr):
    """True where the state is forgotten before this step; backwards a cut lies on its other side."""
    at = at + 1 if REVERSE else at
    flags = reset + tl.cast(row, tl.int64) * time + at
    return tl.load(flags, mask=live & (at < length), other=0) != 0


@triton.jit
def is_live(step, end, WHOLE: tl.constexpr):
    """True for steps before `end`: in a whole tile all are, and the compiler may know."""
    return step >= 0 if WHOLE else step < end


@triton.jit
def span(lengths, row, part, chunk, time, TILE: tl.constexpr):
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
def join(a1, b1, a2, b2):
    """One step h -> a h + b after another. A factor of zero forgets even what is not finite."""
    forget = a2 == 0
    return tl.where(forget, 0.0, a2 * a1), tl.where(forget, b2, a2 * b1 + b2)


@triton.jit
def join_before(a1, b1, p1, q1, a2, b2, p2, q2):
    """As `_join`; p, q lead to the state before the last step."""
    a, b = join(a1, b1, a2, b2)
    p, q = join(a1, b1, p2, q2)
    return a, b, p, q


@triton.jit
def advance(a, b, h, CUTS: tl.constexpr):
    """a h + b; where there may be cuts, a factor of zero is one."""
    after = a * h + b
    return tl.where(a == 0, b, after) if CUTS else after


@triton.jit
def enter(a, b, h):
    """The state [RUNS, BLOCK_D] before each run of a tile, whose totals are a, b; h before the first."""
    # Not a * 0: a run need not be finite, what it begins with is.
    one, zero = tl.full(a.shape, 1.0, tl.float32), tl.zeros_like(b)
    _, _, p, q = tl.associative_scan((a, b, one, zero), 0, join_before)
    return tl.where(p == 0, q, p * h[None, :] + q)


@triton.jit
def last(x, RUNS: tl.constexpr):
    return tl.sum(tl.where(tl.arange(0, RUNS)[:, None] == RUNS - 1, x, 0.0), 0)


@triton.jit
def begin_state(h_0, carries, row, part, width, channel):
    """The state before a chunk: `carries` [B, chunks, D] holds those after each."""
    inside = channel < width
    h = tl.load(h_0 + row * width + channel, mask=inside, other=0.0)
    if carries is not None:
        before = tl.cast(row, tl.int64) * tl.num_programs(1) + part - 1
        later = tl.load(carries + before * width + channel, mask=inside & (part > 0), other=0.0)
        h = tl.where(part == 0, h, later)
    return h


@triton.jit
def place(width, RUN: tl.constexpr, RUNS: tl.constexpr, BLOCK_D: tl.constexpr):
    """row, chunk, first step of each run [RUNS, 1] and channels [BLOCK_D] of this program."""
    blocks = (width + BLOCK_D - 1) // BLOCK_D
    channel = (tl.program_id(0) % blocks) * BLOCK_D + tl.arange(0, BLOCK_D)
    row = tl.cast(tl.program_id(0) // blocks, tl.int64)  # a state may have more numbers than 32 bits count
    return row, tl.program_id(1), tl.arange(0, RUNS)[:, None] * RUN, channel
