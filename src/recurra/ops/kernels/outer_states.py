# mypy: disable-error-code="no-untyped-def, untyped-decorator, no-untyped-call, import-untyped, assignment"
# Triton reads the kernels as its own language: their arguments have no types of Python.
"""What goes from chunk to chunk of the matrix memory: the max of the gates, and the matrix."""

import triton
import triton.language as tl

from recurra.ops.kernels.outer_tiles import columns_of, cuts, decay_columns, factors, length_of, numbers
from recurra.ops.kernels.tiles import load


@triton.jit
def _join(a1, b1, a2, b2):
    """One step m -> max(a + m, b) after another."""
    return a1 + a2, tl.maximum(a2 + b1, b2)


@triton.jit
def stabilise(decay, gate, reset, lengths, max_0, tops, max_n, time, heads, LEN: tl.constexpr):
    """m_t = max(decay_t + m_{t-1}, gate_t) of every step, and the last one; a cut puts 0 for m_{t-1}."""
    row, head = tl.program_id(0) // heads, tl.program_id(0) % heads
    m, length, steps = tl.load(max_0 + row * heads + head), length_of(lengths, row, time), tl.arange(0, LEN)
    for begin in range(0, time, LEN):
        live = begin + steps < length
        a, b = (
            load(decay, row, begin, steps, head, live, True),
            load(gate, row, begin, steps, head, live, True),
        )
        if reset is not None:
            flags = tl.load(reset + tl.cast(row, tl.int64) * time + begin + steps, mask=live, other=0) != 0
            b = tl.where(flags, tl.maximum(a, b), b)
            a = tl.where(flags, float("-inf"), a)
        b = tl.where(live, b, float("-inf"))
        a, b = tl.associative_scan((a, b), 0, _join)
        top = tl.maximum(a + m, b)
        at = (tl.cast(row, tl.int64) * time + begin + steps) * heads + head
        tl.store(tops + at, top, mask=begin + steps < time)
        m = tl.sum(tl.where(steps == LEN - 1, top, 0.0), 0)
    tl.store(max_n + row * heads + head, m)


@triton.jit
def walk(
    rows, columns, decay, gain, count, reset, lengths, first, first_n, entering, entering_n, last, last_n,
    time, heads, keys, values, chunks, scale,
    LAG: tl.constexpr, OF_KEYS: tl.constexpr, BACK: tl.constexpr, PRECISION: tl.constexpr,
    LEN: tl.constexpr, BLOCK_K: tl.constexpr, BLOCK_V: tl.constexpr,
):  # fmt: skip
    """C' = G C + sum_l (gain_l k_l R_l) v_l' from chunk to chunk, and what each begins with; n' = G n + sum_l
    count_l k_l R_l. Backwards the same of the gradients, with q_j P_j for k_l R_l and dy for v."""
    blocks, pair = tl.cdiv(values, BLOCK_V), tl.program_id(0)
    row, head, block = pair // heads, pair % heads, tl.program_id(1) % blocks
    channel, at, inside = columns_of(head, tl.program_id(1) // blocks * BLOCK_K, keys, BLOCK_K)
    value, value_at, value_inside = columns_of(head, block * BLOCK_V, values, BLOCK_V)
    decay_at, there = decay_columns(head, at, inside, OF_KEYS)
    spot = tl.trans(channel) * values + value
    mask, size = tl.trans(inside) & value_inside, tl.cast(keys, tl.int64) * values
    # Which program writes n: those of the first values.
    mask_n, length = inside & (block == 0), length_of(lengths, row, time)
    c = tl.load(first + pair * size + spot, mask=mask, other=0.0)
    n = channel * 0.0
    if count is not None:
        n = tl.load(first_n + pair * keys + channel, mask=inside, other=0.0)
    steps = tl.arange(0, LEN)[:, None]
    for i in range(chunks):
        chunk = chunks - 1 - i if BACK else i
        number, begin = tl.cast(pair, tl.int64) * chunks + chunk, chunk * LEN
        tl.store(entering + number * size + spot, c, mask=mask)
        live = begin + steps < length
        reads, writes, whole = factors(
            decay, cuts(reset, row, begin, length, time, LEN), row, begin, length, decay_at, there, LAG, LEN
        )
        x = load(rows, row, begin, steps, at, live & inside, True) * (reads if BACK else writes) * scale
        v = load(columns, row, begin, steps, value_at, live & value_inside, True)
        if count is not None:
            tl.store(entering_n + number * keys + channel, n, mask=mask_n)
            n = (
                whole * n
                + tl.sum(x * numbers(count, row, head, begin, length, time, heads, 0.0, LEN), 0)[None, :]
            )
            x = x * numbers(gain, row, head, begin, length, time, heads, 0.0, LEN)
        c = tl.trans(whole) * c + tl.dot(tl.trans(x), v, input_precision=PRECISION)
    tl.store(last + pair * size + spot, c, mask=mask)
    if count is not None:
        tl.store(last_n + pair * keys + channel, n, mask=mask_n)
