# mypy: disable-error-code="no-untyped-def, untyped-decorator, no-untyped-call, import-untyped, assignment"
# Triton reads the kernels as its own language: their arguments have no types of Python.
"""The backward kernels of `softmax`.

The max is a choice of units: y does not depend on it, and between the first and the last state it counts as
a constant. The gradient of the last max walks back to whichever score, or first max, it was. Through a step
each part of the gradient of the sums is multiplied by a number, the same whatever it is: a linear recurrence.
"""

from typing import NamedTuple

import triton
import triton.language as tl

from recurra.ops.kernels.softmax_forward import (
    average,
    clear_rows,
    merge,
    place_heads,
    read,
    take_in,
    vectors,
    write,
)
from recurra.ops.kernels.tiles import View, begin_state, is_cut, load, moment, span, store


class Gradients(NamedTuple):
    """Views of the gradients of the inputs."""

    score: View
    value: View


@triton.jit
def _again(
    of, reset, saved, start, end, length, time, at, decay, HEADS: tl.constexpr, GROUP: tl.constexpr,
    RUN: tl.constexpr, REVERSE: tl.constexpr,
):  # fmt: skip
    """Score, values and the sums before each step of a tile, from the state that was kept."""
    steps, tile = (), at.row * ((time + RUN - 1) // RUN) + start // RUN
    m, a, c = read(saved, tile, at, 2 * HEADS + HEADS * GROUP)
    for u in tl.static_range(RUN):
        s, v, before, sums = take_in(
            of, reset, start, u, end, length, time, at, m, a, c, decay, HEADS, GROUP, REVERSE
        )
        steps = steps + ((s, v, before),)
        m, a, c = sums
    return steps


@triton.jit
def _through(step, live, decay):
    """What a step keeps of the sums, what its score counts in them, and if that is the new max."""
    s, _, before = step
    m, _, c = before
    keep, take, _, ahead = merge(m - decay, c, s, s * 0 + 1)
    return tl.where(live, keep, 1.0), tl.where(live, take, 0.0), ahead & live


@triton.jit
def _back(reset, u, start, end, length, time, at, step, gy, m, a, c, decay, bonus, REVERSE: tl.constexpr):
    """One step back: the new gradient m, a, c of the sums; those of score, values, decay and bonus."""
    live = start + u < end
    s, v, before = step
    m_0, a_0, c_0 = before
    keep, take, ahead = _through(step, live, decay)
    older, newer = average(m_0, c_0, s, bonus)
    dv = take[:, None] * a + newer[:, None] * gy
    from_y = tl.sum(gy * (older[:, None] * a_0 + newer[:, None] * v), 1)
    chosen, m = tl.where(ahead, m, 0.0), tl.where(ahead, 0.0, m)
    ds = tl.sum(dv * v, 1) - newer * from_y + take * c + chosen
    dbonus = newer * (tl.sum(gy * v, 1) - from_y)
    ddecay = tl.where(live, -keep * (tl.sum(a * a_0, 1) + c * c_0) - m, 0.0)
    a, c = keep[:, None] * a + older[:, None] * gy, keep * c - older * from_y
    if reset is not None:
        now = moment(start + u, length, not REVERSE)
        cut = is_cut(reset, at.row, now, live, length, time, REVERSE)
        a, c = tl.where(cut, 0.0, a), tl.where(cut, 0.0, c)
    return m, a, c, ds, dv, ddecay, dbonus


@triton.jit
def backward(
    of, dy, to, saved, dstate_n, dstate, ddecay, dbonus, carries, reset, lengths, time, chunk,
    HEADS: tl.constexpr, GROUP: tl.constexpr, BLOCK_H: tl.constexpr, BLOCK_G: tl.constexpr,
    RUN: tl.constexpr, REVERSE: tl.constexpr,
):  # fmt: skip
    """All gradients, those of decay and bonus for each chunk; a row's first program takes its last chunk."""
    at, part, parts = place_heads(HEADS, GROUP, BLOCK_H, BLOCK_G), tl.program_id(1), tl.num_programs(1)
    begin, end, _tail, length = span(lengths, at.row, parts - 1 - part, chunk, time, RUN)
    decay, bonus = vectors(of, at, HEADS)
    whole: tl.constexpr = 2 * HEADS + HEADS * GROUP
    m = begin_state(dstate_n, carries, at.row, part, whole, at.max)
    a = begin_state(dstate_n, carries, at.row, part, whole, at.numerator)
    c = begin_state(dstate_n, carries, at.row, part, whole, at.denominator)
    sum_decay, sum_bonus = decay * 0, decay * 0
    tiles = (tl.maximum(end - begin, 0) + RUN - 1) // RUN
    for i in tl.range(0, tiles):
        start, out = begin + (tiles - 1 - i) * RUN, ()
        steps = _again(of, reset, saved, start, end, length, time, at, decay, HEADS, GROUP, RUN, REVERSE)
        first = moment(start, length, not REVERSE)
        for u in tl.static_range(RUN - 1, -1, -1):
            mask = (start + u < end) & (at.channel < HEADS * GROUP)
            gy = load(dy, at.row, first, u, at.channel, mask, not REVERSE)
            m, a, c, ds, dv, from_decay, from_bonus = _back(
                reset, u, start, end, length, time, at, steps[u], gy, m, a, c, decay, bonus, REVERSE
            )
            sum_decay, sum_bonus = sum_decay + from_decay, sum_bonus + from_bonus
            out = ((ds, dv),) + out
        for u in tl.static_range(RUN):
            live = start + u < end
            store(to.score, out[u][0], at.row, first, u, at.head, live & (at.head < HEADS), not REVERSE)
            mask = live & (at.channel < HEADS * GROUP)
            store(to.value, out[u][1], at.row, first, u, at.channel, mask, not REVERSE)
    if part == parts - 1:
        write(dstate, at.row, at, m, a, c, whole)
    own = (at.row * parts + part) * HEADS + at.head
    tl.store(ddecay + own, sum_decay, mask=at.head < HEADS)
    tl.store(dbonus + own, sum_bonus, mask=at.head < HEADS)
    if lengths is not None:
        first, stop = tl.maximum(begin, length), tl.minimum(begin + chunk, time)
        clear_rows(to.score, at.row, first, stop, at.head, HEADS)
        clear_rows(to.value, at.row, first, stop, at.channel, HEADS * GROUP)


@triton.jit
def backward_totals(
    of, dy, saved, decays, ends, reset, lengths, time, chunk,
    HEADS: tl.constexpr, GROUP: tl.constexpr, BLOCK_H: tl.constexpr, BLOCK_G: tl.constexpr,
    RUN: tl.constexpr, REVERSE: tl.constexpr,
):  # fmt: skip
    """What a chunk does to any gradient of the sums, the last chunk first: g -> decays g + ends."""
    at, part, parts = place_heads(HEADS, GROUP, BLOCK_H, BLOCK_G), tl.program_id(1), tl.num_programs(1)
    begin, end, _tail, length = span(lengths, at.row, parts - 1 - part, chunk, time, RUN)
    decay, bonus = vectors(of, at, HEADS)
    m, a, top, kept = decay * 0, at.channel * 0.0, decay * 0 + 1, decay * 0 + 1
    c = m
    tiles = (tl.maximum(end - begin, 0) + RUN - 1) // RUN
    for i in tl.range(0, tiles):
        start = begin + (tiles - 1 - i) * RUN
        steps = _again(of, reset, saved, start, end, length, time, at, decay, HEADS, GROUP, RUN, REVERSE)
        first = moment(start, length, not REVERSE)
        for u in tl.static_range(RUN - 1, -1, -1):
            mask = (start + u < end) & (at.channel < HEADS * GROUP)
            gy = load(dy, at.row, first, u, at.channel, mask, not REVERSE)
            keep, _, ahead = _through(steps[u], start + u < end, decay)
            kept, top = tl.where(keep == 0, 0.0, kept * keep), tl.where(ahead, 0.0, top)
            m, a, c, _, _, _, _ = _back(
                reset, u, start, end, length, time, at, steps[u], gy, m, a, c, decay, bonus, REVERSE
            )
    row, whole = at.row * parts + part, 2 * HEADS + HEADS * GROUP
    write(decays, row, at, top, kept[:, None] + a * 0, kept, whole)
    write(ends, row, at, m, a, c, whole)
