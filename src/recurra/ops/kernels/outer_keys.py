# mypy: disable-error-code="no-untyped-def, untyped-decorator, no-untyped-call, import-untyped, assignment"
# Triton reads the kernels as its own language: their arguments have no types of Python.
"""The gradients of q, k, decays, gates and bonus of a chunk, some keys a program.

A decay lies on the way of all that is read from its step on, of all that was written before it, of every pair
of steps that it stands between, and of what passes through.
"""

import triton
import triton.language as tl

from recurra.ops.kernels.outer_tiles import (
    before_step,
    columns_of,
    cuts,
    decay_columns,
    factors,
    kept,
    matrix,
    numbers,
    place,
    weighed,
    weights,
)
from recurra.ops.kernels.tiles import load, store


@triton.jit
def _cotangents(
    v, dy, side, count, states, states_n, grads, grads_n, row, head, begin, end, channel, inside,
    time, heads, keys, values,
    PRECISION: tl.constexpr, LEN: tl.constexpr, BLOCK_K: tl.constexpr, BLOCK_V: tl.constexpr,
):  # fmt: skip
    """Of S, of q P and of k R; and C dC summed over values, [1, BLOCK_K]."""
    step, number = tl.arange(0, LEN)[:, None], tl.cast(tl.program_id(0), tl.int64)
    live, mixed = begin + step < end, tl.zeros([LEN, LEN], tl.float32)
    reads, writes = tl.zeros([LEN, BLOCK_K], tl.float32), tl.zeros([LEN, BLOCK_K], tl.float32)
    passing = tl.zeros([1, BLOCK_K], tl.float32)
    for first in range(0, values, BLOCK_V):
        value, at, there = columns_of(head, first, values, BLOCK_V)
        x = load(v, row, begin, step, at, live & there, True)
        d = load(dy, row, begin, step, at, live & there, True)
        d = d * weighed(side, 1.0, row, head, begin, end, time, heads, LEN)
        c, mask = matrix(states, number, channel, tl.trans(value), keys, values, inside)
        c = tl.load(c, mask=mask, other=0.0)
        dc, mask = matrix(grads, number, channel, tl.trans(value), keys, values, inside)
        dc = tl.load(dc, mask=mask, other=0.0)
        mixed += tl.dot(d, tl.trans(x), input_precision=PRECISION)
        reads += tl.dot(d, c, input_precision=PRECISION)
        writes += tl.dot(x, dc, input_precision=PRECISION)
        passing += tl.sum(c * dc, 0)[None, :]
    if count is not None:
        divisor = numbers(count, row, head, begin, end, time, heads, 0.0, LEN)
        n = tl.load(states_n + number * keys + channel, mask=inside, other=0.0)
        dn = tl.load(grads_n + number * keys + channel, mask=inside, other=0.0)
        mixed, reads, writes, passing = mixed + divisor, reads + divisor * n, writes + dn, passing + n * dn
    return mixed, reads, writes, passing


@triton.jit
def _of_heads(
    mixed, query, key, reading, writing, passing, decay, cut, row, begin, end, head,
    LAG: tl.constexpr, PRECISION: tl.constexpr, LEN: tl.constexpr,
):  # fmt: skip
    """What every pair of steps adds to dq and dk, and the gradients of the decays of a head."""
    step, other = tl.arange(0, LEN)[:, None], tl.arange(0, LEN)[None, :]
    later, earlier = (other >= step + LAG).to(tl.float32), (other < step).to(tl.float32)
    mixed = mixed * weights(decay, cut, row, begin, end, head, LAG, LEN)
    dq = tl.dot(mixed, key, input_precision=PRECISION)
    dk = tl.dot(tl.trans(mixed), query, input_precision=PRECISION)
    pairs = mixed * tl.dot(query, tl.trans(key), input_precision=PRECISION)
    ddecay = tl.sum(earlier * tl.dot(later, pairs, input_precision=PRECISION), 1)
    ddecay += tl.sum(later * tl.sum(reading, 1)[None, :] + earlier * tl.sum(writing, 1)[None, :], 1)
    return dq, dk, ddecay[:, None] + tl.sum(passing, 1)[:, None]


@triton.jit
def _of_keys(
    mixed, query, reading, writing, passing, k, decay, cut, row, begin, end, at, inside, scale,
    LAG: tl.constexpr, PRECISION: tl.constexpr, LEN: tl.constexpr,
):  # fmt: skip
    """The same where every key decays by itself: one step that writes after the other, the last one first."""
    step, other = tl.arange(0, LEN)[:, None], tl.arange(0, LEN)[None, :]
    later, earlier = (other >= step + LAG).to(tl.float32), (other < step).to(tl.float32)
    ddecay = passing + tl.dot(later, reading, input_precision=PRECISION)
    ddecay += tl.dot(earlier, writing, input_precision=PRECISION)
    logs, dq, dk = query * 0.0, query * 0.0, query * 0.0
    for i in range(LEN):
        to = LEN - 1 - i
        own = load(k, row, begin + to, 0, at, inside & (begin + to < end), True) * scale
        column = tl.sum(tl.where(other == to, mixed, 0.0), 1)[:, None]
        d = kept(logs, cut, to, LAG, LEN) * column
        dq += d * own
        d = d * query
        dk += tl.where(step == to, tl.sum(d, 0)[None, :], 0.0)
        ddecay += tl.where(step > to, tl.dot(later, d * own, input_precision=PRECISION), 0.0)
        logs = before_step(logs, decay, row, begin, end, to, at, inside, LAG, LEN)
    return dq, dk, ddecay


@triton.jit
def pull_keys(
    q, k, v, dy, decay, gain, side, count, bonus, reset, lengths, states, states_n, grads, grads_n,
    dq, dk, ddecay, dgate, dbonus, time, heads, keys, values, chunks, scale,
    LAG: tl.constexpr, OF_KEYS: tl.constexpr, PRECISION: tl.constexpr,
    LEN: tl.constexpr, BLOCK_K: tl.constexpr, BLOCK_V: tl.constexpr,
):  # fmt: skip
    """dq, dk; ddecay of keys, or parts of it and of dgate [key blocks, B, T, H]; dbonus [B H chunks, K]."""
    row, head, begin, end = place(lengths, heads, chunks, time, LEN)
    cut, step = cuts(reset, row, begin, end, time, LEN), tl.arange(0, LEN)[:, None]
    channel, at, inside = columns_of(head, tl.program_id(1) * BLOCK_K, keys, BLOCK_K)
    decay_at, there = decay_columns(head, at, inside, OF_KEYS)
    live, take = begin + step < end, weighed(gain, scale, row, head, begin, end, time, heads, LEN)
    mixed, of_reads, of_writes, passing = _cotangents(
        v, dy, side, count, states, states_n, grads, grads_n, row, head, begin, end, channel, inside,
        time, heads, keys, values, PRECISION, LEN, BLOCK_K, BLOCK_V,
    )  # fmt: skip
    query = load(q, row, begin, step, at, live & inside, True)
    key = load(k, row, begin, step, at, live & inside, True) * take
    reads, writes, whole = factors(decay, cut, row, begin, end, decay_at, there, LAG, LEN)
    d_query, d_key, passing = reads * of_reads, writes * of_writes, whole * passing
    reading, writing = query * d_query, key * d_key
    if OF_KEYS:
        pair_q, pair_k, of_decay = _of_keys(
            mixed, query, reading, writing, passing, k, decay, cut, row, begin, end, at, inside, scale,
            LAG, PRECISION, LEN,
        )  # fmt: skip
    else:
        pair_q, pair_k, of_decay = _of_heads(
            mixed, query, key, reading, writing, passing, decay, cut, row, begin, end, head,
            LAG, PRECISION, LEN,
        )  # fmt: skip
    d_query, d_key = d_query + pair_q, d_key + pair_k
    if bonus is not None:
        u = tl.load(bonus + head * keys + channel, mask=inside, other=0.0)
        own = tl.sum(tl.where(tl.arange(0, LEN)[None, :] == step, mixed, 0.0), 1)[:, None]
        d_query, d_key = d_query + own * u * key, d_key + own * u * query
        part = tl.cast(tl.program_id(0), tl.int64) * keys + channel
        tl.store(dbonus + part, tl.sum(own * query * key, 0)[None, :], mask=inside)
    mask, of_decay = begin + step < time, tl.where(live, of_decay, 0.0)
    if OF_KEYS:
        store(ddecay, of_decay, row, begin, step, at, mask & inside, True)
    else:
        batch = tl.num_programs(0) // chunks // heads
        part = ((tl.cast(tl.program_id(1), tl.int64) * batch + row) * time + begin + step) * heads + head
        tl.store(ddecay + part, of_decay, mask=mask)
        if dgate is not None:
            tl.store(dgate + part, tl.where(live, tl.sum(key * d_key, 1)[:, None], 0.0), mask=mask)
    store(dq, tl.where(live, d_query, 0.0), row, begin, step, at, mask & inside, True)
    store(dk, tl.where(live, d_key * take, 0.0), row, begin, step, at, mask & inside, True)
