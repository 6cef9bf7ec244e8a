# mypy: disable-error-code="no-untyped-def, untyped-decorator, no-untyped-call, import-untyped, assignment"
# Triton reads the kernels as its own language: their arguments have no types of Python.
"""What the steps of a chunk read of the matrix it begins with and of each other, and the gradient of v."""

import triton
import triton.language as tl

from recurra.ops.kernels.outer_tiles import (
    columns_of,
    cuts,
    decay_columns,
    diagonal,
    factors,
    matrix,
    mix_keys,
    numbers,
    place,
    weighed,
    weights,
)
from recurra.ops.kernels.tiles import load, store


@triton.jit
def _over_keys(
    q, k, take, decay, bonus, states, states_n, count, row, head, begin, end, live, value, heads, keys,
    values, scale, DIVIDED: tl.constexpr, LAG: tl.constexpr, OF_KEYS: tl.constexpr, TURNED: tl.constexpr,
    PRECISION: tl.constexpr, LEN: tl.constexpr, BLOCK_K: tl.constexpr, BLOCK_V: tl.constexpr,
):  # fmt: skip
    """S, but for the decays of heads and its diagonal; q P C, or turned k R C; q P n; the bonus' diagonal."""
    step, number = tl.arange(0, LEN)[:, None], tl.cast(tl.program_id(0), tl.int64)
    mixed, seen = tl.zeros([LEN, LEN], tl.float32), tl.zeros([LEN, BLOCK_V], tl.float32)
    divisor, own = tl.zeros([LEN], tl.float32), tl.zeros([LEN], tl.float32)
    for first in range(0, keys, BLOCK_K):
        channel, at, inside = columns_of(head, first, keys, BLOCK_K)
        decay_at, there = decay_columns(head, at, inside, OF_KEYS)
        reads, writes, _ = factors(decay, count, row, begin, end, decay_at, there, LAG, LEN)
        query = load(q, row, begin, step, at, live & inside, True)
        key = load(k, row, begin, step, at, live & inside, True) * take
        if OF_KEYS:
            mixed += mix_keys(query, k, decay, count, row, begin, end, at, inside, scale, LAG, LEN)
        else:
            mixed += tl.dot(query, tl.trans(key), input_precision=PRECISION)
        if bonus is not None:
            own += tl.sum(query * tl.load(bonus + head * keys + channel, mask=inside, other=0.0) * key, 1)
        c, mask = matrix(states, number, tl.trans(channel), value, keys, values, tl.trans(inside))
        x = key * writes if TURNED else query * reads
        seen += tl.dot(x, tl.load(c, mask=mask, other=0.0), input_precision=PRECISION)
        if DIVIDED:
            n = tl.load(states_n + number * keys + channel, mask=inside, other=0.0)
            divisor += tl.sum(query * reads * n, 1)
    return mixed, seen, divisor, own


@triton.jit
def read(
    q, k, columns, decay, gain, side, floor, bonus, reset, lengths, states, states_n, out, divisors,
    time, heads, keys, values, chunks, scale,
    LAG: tl.constexpr, OF_KEYS: tl.constexpr, TURNED: tl.constexpr, PRECISION: tl.constexpr,
    LEN: tl.constexpr, BLOCK_K: tl.constexpr, BLOCK_V: tl.constexpr,
):  # fmt: skip
    """y_j = (sum_l S_jl v_l + q_j P_j C) / d_j, and d; or turned, with columns dy, weighed by side, and
    states dC, the gradients of what a chunk ends with: dv_l = sum_j S_jl dy_j + k_l R_l dC."""
    row, head, begin, end = place(lengths, heads, chunks, time, LEN)
    count, step = cuts(reset, row, begin, end, time, LEN), tl.arange(0, LEN)[:, None]
    live, take = begin + step < end, weighed(gain, scale, row, head, begin, end, time, heads, LEN)
    value, at, there = columns_of(head, tl.program_id(1) * BLOCK_V, values, BLOCK_V)
    mixed, seen, divisor, own = _over_keys(
        q, k, take, decay, bonus, states, states_n, count, row, head, begin, end, live, value, heads, keys,
        values, scale, floor is not None, LAG, OF_KEYS, TURNED, PRECISION, LEN, BLOCK_K, BLOCK_V,
    )  # fmt: skip
    if not OF_KEYS:
        mixed = mixed * weights(decay, count, row, begin, end, head, LAG, LEN)
    mixed += diagonal(own, LEN)
    v = load(columns, row, begin, step, at, live & there, True)
    v = v * weighed(side, 1.0, row, head, begin, end, time, heads, LEN)
    y = tl.dot(tl.trans(mixed) if TURNED else mixed, v, input_precision=PRECISION) + seen
    mask = begin + step < time
    if floor is not None:
        divisor = (divisor + tl.sum(mixed, 1))[:, None]
        y = y / tl.maximum(tl.abs(divisor), numbers(floor, row, head, begin, end, time, heads, 1.0, LEN))
        place_of = (tl.cast(row, tl.int64) * time + begin + step) * heads + head
        tl.store(divisors + place_of, divisor, mask=mask & (tl.program_id(1) == 0))
    store(out, tl.where(live, y, 0.0), row, begin, step, at, mask & there, True)
