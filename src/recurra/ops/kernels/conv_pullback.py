# mypy: disable-error-code="no-untyped-def, untyped-decorator, no-untyped-call, import-untyped, assignment"
# Triton reads the kernels as its own language: their arguments have no types of Python.
"""The backward kernel of the causal convolution.

It walks over all inputs, those in the initial state first; each gathers from the outputs that saw it. The
final state is one output more: the state saw the input `back` steps before the end as a tap would.
"""

import triton
import triton.language as tl

from recurra.ops.kernels.conv_forward import connected, past
from recurra.ops.kernels.tiles import clear, load, place, store


@triton.jit
def _seen(
    dy, dstate_n, reset, row, first, steps, channels, kept, length, time, width,
    AHEAD: tl.constexpr, HISTORY: tl.constexpr, ROWS: tl.constexpr,
):  # fmt: skip
    """The gradients of y and of the final state AHEAD steps after each input."""
    at = first + steps + AHEAD
    ahead = load(dy, row, first + AHEAD, steps, channels, kept & (at >= 0) & (at < length), True)
    final = tl.zeros_like(ahead)
    if (AHEAD > 0) & (first + ROWS + AHEAD > length):
        state_row = tl.cast(row, tl.int64) * HISTORY + HISTORY - AHEAD
        mask = kept & (at == length)
        final = tl.load(dstate_n + state_row * width + channels + steps * 0, mask=mask, other=0.0)
    return ahead, final


@triton.jit
def _gather(
    dy, dstate_n, reset, row, start, steps, channels, kept, value, weights, length, time, width,
    TAPS: tl.constexpr, ROWS: tl.constexpr,
):  # fmt: skip
    """The gradients of a tile of inputs, and what each adds to that of every tap, and of the bias."""
    total, sums, bias = tl.zeros_like(value), (), tl.zeros_like(value)
    for ahead in tl.static_range(TAPS):
        if ahead > 0:
            kept = connected(reset, row, start + steps + ahead, kept, length, time)
        g, final = _seen(
            dy, dstate_n, reset, row, start, steps, channels, kept, length, time, width,
            ahead, TAPS - 1, ROWS,
        )  # fmt: skip
        total += weights[TAPS - 1 - ahead] * g + final
        sums = sums + (g * value,)
        if ahead == 0:
            bias = g
    return total, sums, bias


@triton.jit
def backward(
    x, dy, dx, weight, state, dstate_n, dstate, dweight, dbias, reset, lengths, positions, width, chunk,
    TAPS: tl.constexpr, ROWS: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    """dx and dstate, and of each chunk dweight [TAPS, D] and dbias; positions: of the state and in time."""
    HISTORY: tl.constexpr = TAPS - 1
    time = positions - HISTORY
    row, part, steps, channel = place(width, 1, ROWS, BLOCK_D)
    channels, inside = channel[None, :], (channel < width)[None, :]
    length = time
    if lengths is not None:
        length = tl.minimum(tl.maximum(tl.load(lengths + row), 0), time).to(tl.int32)
    begin = part * chunk - HISTORY
    # Added up over tiles, and over the rows of a tile at the end alone.
    weights, sums, db = (), (), tl.full([ROWS, BLOCK_D], 0.0, tl.float32)
    for j in tl.static_range(TAPS):
        weights = weights + (tl.load(weight + j * width + channels, mask=inside, other=0.0),)
        sums = sums + (tl.full([ROWS, BLOCK_D], 0.0, tl.float32),)
    for start in tl.range(begin, tl.minimum(begin + chunk, length), ROWS):
        kept = (start + steps < tl.minimum(begin + chunk, length)) & inside
        value = past(x, state, row, start, steps, channels, kept, width, HISTORY)
        total, added, bias = _gather(
            dy, dstate_n, reset, row, start, steps, channels, kept, value, weights, length, time, width,
            TAPS, ROWS,
        )  # fmt: skip
        new, db = (), db + bias
        for ahead in tl.static_range(TAPS):
            new = new + (sums[ahead] + added[ahead],)
        sums = new
        store(dx, total, row, start, steps, channels, kept & (start + steps >= 0), True)
        if start < 0:
            at = (tl.cast(row, tl.int64) * HISTORY + HISTORY + start + steps) * width + channels
            tl.store(dstate + at, total, mask=kept & (start + steps < 0))
    at = tl.cast(row, tl.int64) * tl.num_programs(1) + part
    tl.store(dbias + at * width + channel, tl.sum(db, 0), mask=channel < width)
    for ahead in tl.static_range(TAPS):
        tap = dweight + (at * TAPS + HISTORY - ahead) * width + channel
        tl.store(tap, tl.sum(sums[ahead], 0), mask=channel < width)
    if lengths is not None:
        clear(dx, row, tl.maximum(begin, length), tl.minimum(begin + chunk, time), channels, width, ROWS)
