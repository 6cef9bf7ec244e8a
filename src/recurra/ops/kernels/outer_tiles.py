# mypy: disable-error-code="no-untyped-def, untyped-decorator, no-untyped-call, import-untyped, assignment"
# Triton reads the kernels as its own language: their arguments have no types of Python.
"""Chunks of the matrix memory, as Triton functions: their decays, and how their steps mix.

Time goes in chunks of LEN steps: y_j = sum_l S_jl v_l + (q_j P_j) C, C' = G C + sum_l (k_l R_l) v_l', where
P, R and G are products of decays from the chunk's start to j, from l to its end and over all of it, zero
across a cut. Exponents are sums, never differences of sums, which lose what is small. With a bonus what is
read lies LAG = 1 step back. A decay is of a head, or with OF_KEYS of each key.
"""

import triton
import triton.language as tl

from recurra.ops.kernels.tiles import load


@triton.jit
def place(lengths, heads, chunks, time, LEN: tl.constexpr):
    """row, head, first step and end of the chunk of this program."""
    chunk = tl.program_id(0) % chunks
    row = tl.program_id(0) // chunks // heads
    return row, tl.program_id(0) // chunks % heads, chunk * LEN, length_of(lengths, row, time)


@triton.jit
def length_of(lengths, row, time):
    length = time
    if lengths is not None:
        length = tl.minimum(tl.maximum(tl.load(lengths + row), 0), time).to(tl.int32)
    return length


@triton.jit
def numbers(x, row, head, begin, end, time, heads, other, LEN: tl.constexpr):
    """One number a step, [LEN, 1], of x [B, T, H]."""
    at = begin + tl.arange(0, LEN)[:, None]
    return tl.load(x + (tl.cast(row, tl.int64) * time + at) * heads + head, mask=at < end, other=other)


@triton.jit
def weighed(x, scale, row, head, begin, end, time, heads, LEN: tl.constexpr):
    """What each step weighs, [LEN, 1]: as x says, or the same for all; zero in the padding."""
    if x is not None:
        w = numbers(x, row, head, begin, end, time, heads, 0.0, LEN)
    else:
        w = tl.where(begin + tl.arange(0, LEN)[:, None] < end, scale, 0.0)
    return w


@triton.jit
def cuts(reset, row, begin, end, time, LEN: tl.constexpr):
    """How often the state was forgotten since the chunk began, up to each step, [LEN]."""
    at = begin + tl.arange(0, LEN)
    count = at * 0
    if reset is not None:
        flags = tl.load(reset + tl.cast(row, tl.int64) * time + at, mask=at < end, other=0)
        count = tl.cumsum((flags != 0).to(tl.int32), 0)
    return count


@triton.jit
def columns_of(head, first, size, BLOCK: tl.constexpr):
    """Channels first .. first + BLOCK of a head, [1, BLOCK], where they lie, and which there are."""
    channel = first + tl.arange(0, BLOCK)[None, :]
    return channel, head * size + channel, channel < size


@triton.jit
def decay_columns(head, columns, inside, OF_KEYS: tl.constexpr):
    """The columns of the decays of these keys."""
    if OF_KEYS:
        at, there = columns, inside
    else:
        at, there = tl.full([1, 1], 0, tl.int32) + head, tl.full([1, 1], 0, tl.int32) == 0
    return at, there


@triton.jit
def factors(decay, count, row, begin, end, at, there, LAG: tl.constexpr, LEN: tl.constexpr):
    """P and R [LEN, 1 or keys] and G [1, 1 or keys]."""
    step = tl.arange(0, LEN)[:, None]
    own = there & (begin + step < end)
    read = own if LAG == 0 else there & (step >= LAG) & (begin + step - LAG < end)
    later = there & (step + 1 < LEN) & (begin + step + 1 < end)
    until = tl.cumsum(load(decay, row, begin - LAG, step, at, read, True), 0)
    after = tl.cumsum(load(decay, row, begin + 1, step, at, later, True), 0, reverse=True)
    total = tl.sum(load(decay, row, begin, step, at, own, True), 0)[None, :]
    all_cuts = tl.max(count, 0)
    reads = tl.where(count[:, None] == 0, tl.exp(until), 0.0)
    writes = tl.where(count[:, None] == all_cuts, tl.exp(after), 0.0)
    return reads, writes, tl.where(all_cuts == 0, tl.exp(total), 0.0)


@triton.jit
def weights(decay, count, row, begin, end, at, LAG: tl.constexpr, LEN: tl.constexpr):
    """How much of what a step l wrote a step j reads, [LEN, LEN], where decays are of a head."""
    j, earlier = tl.arange(0, LEN)[:, None], tl.arange(0, LEN)[None, :]
    mask = (j >= LAG) & (begin + j - LAG < end)
    steps = load(decay, row, begin - LAG, j, at, mask, True)
    between = tl.cumsum(tl.where(j > earlier + LAG, steps, 0.0), 0)
    same = (count[:, None] == count[None, :]) & (j >= earlier + LAG)
    return tl.where(same, tl.exp(between), 0.0)


@triton.jit
def kept(logs, count, step, LAG: tl.constexpr, LEN: tl.constexpr):
    """e^logs of what `step` wrote, for the steps that read it, [LEN, keys]."""
    j = tl.arange(0, LEN)
    before = tl.sum(tl.where(j == step, count, 0), 0)
    same = (count == before) & (j >= step + LAG)
    return tl.where(same[:, None], tl.exp(logs), 0.0)


@triton.jit
def before_step(logs, decay, row, begin, end, step, at, there, LAG: tl.constexpr, LEN: tl.constexpr):
    """From the sums of decays behind `step` to those behind the step before it."""
    own = load(decay, row, begin + step, 0, at, there & (begin + step < end), True)
    return logs + tl.where(tl.arange(0, LEN)[:, None] >= step + LAG, own, 0.0)


@triton.jit
def mix_keys(
    q, k, decay, count, row, begin, end, columns, inside, scale, LAG: tl.constexpr, LEN: tl.constexpr
):
    """S where every key decays by itself: one column after the other, the last one first."""
    logs, mixed = q * 0.0, tl.zeros([LEN, LEN], tl.float32)
    for i in range(LEN):
        step = LEN - 1 - i
        key = load(k, row, begin + step, 0, columns, inside & (begin + step < end), True) * scale
        seen = tl.sum(q * kept(logs, count, step, LAG, LEN) * key, 1)
        mixed = tl.where(tl.arange(0, LEN)[None, :] == step, seen[:, None], mixed)
        logs = before_step(logs, decay, row, begin, end, step, columns, inside, LAG, LEN)
    return mixed


@triton.jit
def diagonal(x, LEN: tl.constexpr):
    """[LEN, LEN] with x [LEN] on its diagonal."""
    return tl.where(tl.arange(0, LEN)[:, None] == tl.arange(0, LEN)[None, :], x[:, None], 0.0)


@triton.jit
def matrix(x, chunk, channel, columns, keys, values, inside):
    """Pointers into the matrices x [..., K, V], and which numbers there are."""
    at = tl.cast(chunk, tl.int64) * keys * values + channel * values + columns
    return x + at, inside & (channel < keys) & (columns < values)
