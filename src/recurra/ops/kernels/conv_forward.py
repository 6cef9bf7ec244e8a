# mypy: disable-error-code="no-untyped-def, untyped-decorator, no-untyped-call, import-untyped, assignment"
# Triton reads the kernels as its own language: their arguments have no types of Python.
"""The forward kernel of the causal convolution: what csrc/conv.h is on a CPU."""

import triton
import triton.language as tl

from recurra.ops.kernels.tiles import clear, is_cut, load, place, span, store


@triton.jit
def past(x, state, row, first, steps, channels, mask, width, HISTORY: tl.constexpr):
    """The inputs at first + steps; those before step 0 lie in the state [B, HISTORY, D]."""
    value = load(x, row, first, steps, channels, mask & (first + steps >= 0), True)
    if first < 0:
        at = (tl.cast(row, tl.int64) * HISTORY + HISTORY + first + steps) * width + channels
        value += tl.load(state + at, mask=mask & (first + steps < 0), other=0.0)
    return value


@triton.jit
def connected(reset, row, at, kept, length, time):
    """`kept`, where there is no cut before step `at`; the steps 0 .. length - 1 alone have any."""
    if reset is not None:
        kept = kept & ~is_cut(reset, row, at, kept & (at >= 0), length, time, False)
    return kept


@triton.jit
def _state_after(x, state, state_n, reset, row, length, time, width, channel, HISTORY: tl.constexpr):
    """The last inputs of a row: what a step `length` would see."""
    inside, row_n = channel < width, tl.cast(row, tl.int64) * HISTORY
    kept = length >= 0
    for back in tl.static_range(1, HISTORY + 1):
        kept = connected(reset, row, length - back + 1, kept, length, time)
        value = past(x, state, row, length - back, 0, channel, kept & inside, width, HISTORY)
        tl.store(state_n + (row_n + HISTORY - back) * width + channel, value, mask=inside)


@triton.jit
def forward(
    x, y, weight, bias, state, state_n, reset, lengths, time, width, chunk,
    TAPS: tl.constexpr, ROWS: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    """y; the first chunk writes state_n. weight [TAPS, D]."""
    row, part, steps, channel = place(width, 1, ROWS, BLOCK_D)
    begin, end, _tail, length = span(lengths, row, part, chunk, time, ROWS)
    channels, inside = channel[None, :], (channel < width)[None, :]
    weights, offset = (), tl.full([1, BLOCK_D], 0.0, tl.float32)
    for j in tl.static_range(TAPS):
        weights = weights + (tl.load(weight + j * width + channels, mask=inside, other=0.0),)
    if bias is not None:
        offset = tl.load(bias + channels, mask=inside, other=0.0)
    for start in tl.range(begin, end, ROWS):
        kept, total = start + steps < end, offset
        for back in tl.static_range(TAPS):
            if back > 0:
                kept = connected(reset, row, start + steps - back + 1, kept, length, time)
            value = past(x, state, row, start - back, steps, channels, kept & inside, width, TAPS - 1)
            total = total + weights[TAPS - 1 - back] * value
        store(y, total, row, start, steps, channels, (start + steps < end) & inside, True)
    if part == 0:
        _state_after(x, state, state_n, reset, row, length, time, width, channel, TAPS - 1)
    if lengths is not None:
        clear(y, row, tl.maximum(begin, length), tl.minimum(begin + chunk, time), channels, width, ROWS)
