# mypy: disable-error-code="no-untyped-def, untyped-decorator, no-untyped-call, import-untyped, assignment"
# Triton reads the kernels as its own language: their arguments have no types of Python.
"""The forward kernels of `softmax`: outputs, the states at some steps, and what a chunk does to any state.

The sums of a program are a tuple: max [H], numerator [H, G] and denominator [H] of its heads and the
channels of each. In memory they are packed, max | numerator | denominator, [2 H + D].
"""

from typing import Any, NamedTuple

import triton
import triton.language as tl

from recurra.ops.kernels.gates import exp
from recurra.ops.kernels.tiles import View, is_cut, load, moment, span, store


class Inputs(NamedTuple):
    """Views of scores [B, T, H] and values [B, T, D]; decay and bonus [H]."""

    score: View
    value: View
    decay: Any
    bonus: Any


class Place(NamedTuple):
    """Which heads and channels of which row a program has, and where a packed state keeps their sums."""

    row: Any
    head: Any
    channel: Any
    max: Any
    numerator: Any
    denominator: Any


@triton.jit
def place_heads(HEADS: tl.constexpr, GROUP: tl.constexpr, BLOCK_H: tl.constexpr, BLOCK_G: tl.constexpr):
    """Heads, channels and sums that there are none of lie beyond the end of all."""
    blocks: tl.constexpr = (HEADS + BLOCK_H - 1) // BLOCK_H
    width: tl.constexpr = HEADS * GROUP
    head, inner = (tl.program_id(0) % blocks) * BLOCK_H + tl.arange(0, BLOCK_H), tl.arange(0, BLOCK_G)
    here = head < HEADS
    inside = here[:, None] & (inner < GROUP)[None, :]
    channel = tl.where(inside, head[:, None] * GROUP + inner[None, :], width)
    whole: tl.constexpr = 2 * HEADS + width
    last = tl.where(here, HEADS + width + head, whole)
    top, middle = tl.where(here, head, whole), tl.where(inside, HEADS + channel, whole)
    row = tl.cast(tl.program_id(0) // blocks, tl.int64)
    return Place(row, head, channel, top, middle, last)


@triton.jit
def read(states, row, at, WHOLE: tl.constexpr):
    """The sums in a row of packed states."""
    base = states + tl.cast(row, tl.int64) * WHOLE
    m, a = (
        tl.load(base + at.max, mask=at.max < WHOLE, other=0.0),
        tl.load(base + at.numerator, mask=at.numerator < WHOLE, other=0.0),
    )
    return m, a, tl.load(base + at.denominator, mask=at.denominator < WHOLE, other=0.0)


@triton.jit
def write(states, row, at, m, a, c, WHOLE: tl.constexpr):
    base = states + tl.cast(row, tl.int64) * WHOLE
    tl.store(base + at.max, m, mask=at.max < WHOLE)
    tl.store(base + at.numerator, a, mask=at.numerator < WHOLE)
    tl.store(base + at.denominator, c, mask=at.denominator < WHOLE)


@triton.jit
def vectors(of, at, HEADS: tl.constexpr):
    """The decays and bonuses of a program's heads."""
    decay = tl.load(of.decay + at.head, mask=at.head < HEADS, other=0.0)
    return decay, tl.load(of.bonus + at.head, mask=at.head < HEADS, other=0.0)


@triton.jit
def merge(m, c, score, weight):
    """An average with max m and denominator c meets another: what each counts in units of the larger max,
    that max, and if it is the newcomer's. Where a denominator is zero its max does not count."""
    ahead = ((c == 0) | (score > m)) & (weight != 0)
    less = exp(-tl.abs(score - m))
    keep, take = tl.where(ahead, less, 1.0), tl.where(ahead, 1.0, less)
    return (
        tl.where(c == 0, 0.0, keep),
        tl.where(weight == 0, 0.0, take),
        tl.where(ahead, score, m),
        ahead,
    )


@triton.jit
def take_in(
    of, reset, start, u, end, length, time, at, m, a, c, decay, HEADS: tl.constexpr, GROUP: tl.constexpr,
    REVERSE: tl.constexpr,
):  # fmt: skip
    """Score and values of a step, the sums that it finds and those it leaves; beyond `end` they stay."""
    live, first = start + u < end, moment(start, length, not REVERSE)
    s = load(of.score, at.row, first, u, at.head, live & (at.head < HEADS), not REVERSE)
    v = load(of.value, at.row, first, u, at.channel, live & (at.channel < HEADS * GROUP), not REVERSE)
    if reset is not None:
        now = moment(start + u, length, not REVERSE)
        cut = is_cut(reset, at.row, now, live, length, time, REVERSE)
        m, a, c = tl.where(cut, 0.0, m), tl.where(cut, 0.0, a), tl.where(cut, 0.0, c)
    keep, take, top, _ = merge(m - decay, c, s, s * 0 + 1)
    sums = (
        tl.where(live, top, m),
        tl.where(live, keep[:, None] * a + take[:, None] * v, a),
        tl.where(live, keep * c + take, c),
    )
    return s, v, (m, a, c), sums


@triton.jit
def average(m, c, s, bonus):
    """What the older sums and the step's own values count in y."""
    keep, take, _, _ = merge(m, c, s + bonus, s * 0 + 1)
    inverse = 1.0 / (keep * c + take)
    return keep * inverse, take * inverse


@triton.jit
def _tile(
    of, y, reset, start, end, length, time, at, m, a, c, decay, bonus, HEADS: tl.constexpr,
    GROUP: tl.constexpr, RUN: tl.constexpr, REVERSE: tl.constexpr,
):  # fmt: skip
    """RUN steps, read before any is written; returns the sums after them."""
    ys = ()
    for u in tl.static_range(RUN):
        s, v, before, sums = take_in(
            of, reset, start, u, end, length, time, at, m, a, c, decay, HEADS, GROUP, REVERSE
        )
        if y is not None:
            older, newer = average(before[0], before[2], s, bonus)
            ys = ys + (older[:, None] * before[1] + newer[:, None] * v,)
        m, a, c = sums
    if y is not None:
        for u in tl.static_range(RUN):
            mask, first = (start + u < end) & (at.channel < HEADS * GROUP), moment(start, length, not REVERSE)
            store(y, ys[u], at.row, first, u, at.channel, mask, not REVERSE)
    return m, a, c


@triton.jit
def clear_rows(x, row, start, end, channel, width):
    for t in tl.range(start, end):
        store(x, channel * 0.0, row, t, 0, channel, channel < width, True)


@triton.jit
def forward(
    of, y, starts, saved, state_n, reset, lengths, time, chunk,
    HEADS: tl.constexpr, GROUP: tl.constexpr, BLOCK_H: tl.constexpr, BLOCK_G: tl.constexpr,
    RUN: tl.constexpr, REVERSE: tl.constexpr,
):  # fmt: skip
    """y, or where it is None the state before each tile of RUN steps; the last chunk writes state_n."""
    at, part = place_heads(HEADS, GROUP, BLOCK_H, BLOCK_G), tl.program_id(1)
    begin, end, _tail, length = span(lengths, at.row, part, chunk, time, RUN)
    decay, bonus = vectors(of, at, HEADS)
    whole: tl.constexpr = 2 * HEADS + HEADS * GROUP
    m, a, c = read(starts, at.row * tl.num_programs(1) + part, at, whole)
    for start in tl.range(begin, end, RUN):
        if y is None:
            write(saved, at.row * ((time + RUN - 1) // RUN) + start // RUN, at, m, a, c, whole)
        m, a, c = _tile(
            of, y, reset, start, end, length, time, at, m, a, c, decay, bonus, HEADS, GROUP, RUN, REVERSE
        )
    if part == tl.num_programs(1) - 1:
        write(state_n, at.row, at, m, a, c, whole)
    if (y is not None) and (lengths is not None):
        stop = tl.minimum(begin + chunk, time)
        clear_rows(y, at.row, tl.maximum(begin, length), stop, at.channel, HEADS * GROUP)


@triton.jit
def forward_totals(
    of, ends, kept, reset, lengths, time, chunk,
    HEADS: tl.constexpr, GROUP: tl.constexpr, BLOCK_H: tl.constexpr, BLOCK_G: tl.constexpr,
    RUN: tl.constexpr, REVERSE: tl.constexpr,
):  # fmt: skip
    """The sums of a chunk's own steps, and if it keeps what was before."""
    at, part = place_heads(HEADS, GROUP, BLOCK_H, BLOCK_G), tl.program_id(1)
    begin, end, _tail, length = span(lengths, at.row, part, chunk, time, RUN)
    decay = vectors(of, at, HEADS)[0]
    m, a, keeps = decay * 0, at.channel * 0.0, 1.0
    c = m
    for start in tl.range(begin, end, RUN):
        for u in tl.static_range(RUN):
            _, _, _, sums = take_in(
                of, reset, start, u, end, length, time, at, m, a, c, decay, HEADS, GROUP, REVERSE
            )
            m, a, c = sums
            if reset is not None:
                now = moment(start + u, length, not REVERSE)
                cut = is_cut(reset, at.row, now, start + u < end, length, time, REVERSE)
                keeps = tl.where(cut, 0.0, keeps)
    row = at.row * tl.num_programs(1) + part
    write(ends, row, at, m, a, c, 2 * HEADS + HEADS * GROUP)
    tl.store(kept + row, keeps)


@triton.jit
def join_chunks(
    of, state, ends, kept, starts, size, parts, reset, lengths, time, chunk,
    HEADS: tl.constexpr, GROUP: tl.constexpr, BLOCK_H: tl.constexpr, BLOCK_G: tl.constexpr,
    RUN: tl.constexpr, REVERSE: tl.constexpr,
):  # fmt: skip
    """The state before each of `parts` chunks of `size` steps, from their totals."""
    at = place_heads(HEADS, GROUP, BLOCK_H, BLOCK_G)
    _start, length, _tail, _length = span(lengths, at.row, 0, time, time, RUN)
    decay = vectors(of, at, HEADS)[0]
    whole: tl.constexpr = 2 * HEADS + HEADS * GROUP
    m, a, c = read(state, at.row, at, whole)
    for part in tl.range(0, parts):
        row = at.row * parts + part
        write(starts, row, at, m, a, c, whole)
        own_m, own_a, own_c = read(ends, row, at, whole)
        steps = tl.minimum(tl.maximum(length - part * size, 0), size)
        keeps = tl.load(kept + row) > 0
        m, a, c = tl.where(keeps, m - decay * steps, 0.0), tl.where(keeps, a, 0.0), tl.where(keeps, c, 0.0)
        keep, take, m, _ = merge(m, c, own_m, own_c)
        a, c = keep[:, None] * a + take[:, None] * own_a, keep * c + take * own_c
