# mypy: disable-error-code="no-untyped-def, untyped-decorator, no-untyped-call, import-untyped, assignment"
# Triton reads the kernels as its own language: their arguments have no types of Python.
"""The forward kernels of `linear`: outputs, and what a chunk does to any state."""

import triton
import triton.language as tl

from recurra.ops.kernels.gates import gates
from recurra.ops.kernels.tiles import (
    advance,
    begin_state,
    clear,
    enter,
    is_cut,
    is_live,
    join,
    last,
    load_parts,
    moment,
    place,
    span,
    store,
)


@triton.jit
def _forward_tile(
    x0, x1, reset, row, start, end, length, time, width, runs, channels, CELL: tl.constexpr,
    CANDIDATE: tl.constexpr, PARTS: tl.constexpr, REVERSE: tl.constexpr, RUN: tl.constexpr,
    WHOLE: tl.constexpr,
):  # fmt: skip
    """a and b of every step of the runs, and of each run; beyond `end` they keep the state."""
    CUTS: tl.constexpr = (reset is not None) or (CELL == "linear")
    a_s, b_s, a_run, b_run = (), (), 1.0, 0.0
    first = moment(start, length, not REVERSE)
    for u in tl.static_range(RUN):
        live = is_live(start + runs + u, end, WHOLE)
        v0, v1, v2 = load_parts(
            x0, x1, row, first, runs + u, channels, live & (channels < width), width, PARTS, not REVERSE
        )
        a, b = gates(v0, v1, v2, CELL, CANDIDATE)
        if reset is not None:
            cut = is_cut(
                reset, row, moment(start + runs + u, length, not REVERSE), live, length, time, REVERSE
            )
            a = tl.where(cut, 0.0, a)
        if not WHOLE:
            a, b = tl.where(live, a, 1.0), tl.where(live, b, 0.0)
        a_run, b_run = advance(a, 0.0, a_run, CUTS), advance(a, b, b_run, CUTS)
        a_s, b_s = a_s + (a,), b_s + (b,)
    return a_s, b_s, a_run, b_run


@triton.jit
def _forward_pass(
    x0, x1, y, h, reset, row, start, end, length, time, width, runs, channels, CELL: tl.constexpr,
    CANDIDATE: tl.constexpr, PARTS: tl.constexpr, REVERSE: tl.constexpr,
    RUN: tl.constexpr, RUNS: tl.constexpr, WHOLE: tl.constexpr,
):  # fmt: skip
    """y of one tile; returns the state after it."""
    # Factors that come as they are may be totals of chunks with cuts in them.
    CUTS: tl.constexpr = (reset is not None) or (CELL == "linear")
    a_s, b_s, a, b = _forward_tile(
        x0, x1, reset, row, start, end, length, time, width, runs, channels,
        CELL, CANDIDATE, PARTS, REVERSE, RUN, WHOLE,
    )  # fmt: skip
    hs, first = enter(a, b, h), moment(start, length, not REVERSE)
    for u in tl.static_range(RUN):
        hs = advance(a_s[u], b_s[u], hs, CUTS)
        mask = is_live(start + runs + u, end, WHOLE) & (channels < width)
        store(y, hs, row, first, runs + u, channels, mask, not REVERSE)
    return last(hs, RUNS)


@triton.jit
def forward(
    x0, x1, y, h_0, h_n, carries, reset, lengths, time, width, chunk,
    CELL: tl.constexpr, CANDIDATE: tl.constexpr, PARTS: tl.constexpr, REVERSE: tl.constexpr,
    RUN: tl.constexpr, RUNS: tl.constexpr, BLOCK_D: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    """y, from h_0 or from the state after the chunk before; the last chunk writes h_n."""
    row, part, runs, channel = place(width, RUN, RUNS, BLOCK_D)
    begin, end, tail, length = span(lengths, row, part, chunk, time, RUN * RUNS)
    h = begin_state(h_0, carries, row, part, width, channel)
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
        clear(y, row, first, stop, channel[None, :], width, RUNS)


@triton.jit
def forward_totals(
    x0, x1, decays, ends, reset, lengths, time, width, chunk,
    CELL: tl.constexpr, CANDIDATE: tl.constexpr, PARTS: tl.constexpr, REVERSE: tl.constexpr,
    RUN: tl.constexpr, RUNS: tl.constexpr, BLOCK_D: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    """What a chunk does to any state: h -> decays h + ends."""
    row, part, runs, channel = place(width, RUN, RUNS, BLOCK_D)
    begin, end, _tail, length = span(lengths, row, part, chunk, time, RUN * RUNS)
    decay, h = tl.full([BLOCK_D], 1.0, tl.float32), tl.full([BLOCK_D], 0.0, tl.float32)
    for start in tl.range(begin, end, RUN * RUNS, num_stages=STAGES):
        _, _, a, b = _forward_tile(
            x0, x1, reset, row, start, end, length, time, width, runs, channel[None, :],
            CELL, CANDIDATE, PARTS, REVERSE, RUN, False,
        )  # fmt: skip
        a, b = tl.associative_scan((a, b), 0, join)
        decay, h = join(decay, h, last(a, RUNS), last(b, RUNS))
    at = (tl.cast(row, tl.int64) * tl.num_programs(1) + part) * width + channel
    tl.store(decays + at, decay, mask=channel < width)
    tl.store(ends + at, h, mask=channel < width)
