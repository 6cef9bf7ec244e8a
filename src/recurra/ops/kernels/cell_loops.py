# mypy: disable-error-code="no-untyped-def, untyped-decorator, no-untyped-call, import-untyped, assignment"
# Triton reads the kernels as its own language: their arguments have no types of Python.
"""The loops over time of the memory-mixing cells: a program has some rows of the batch and one head.

Its part of W_hh is read before the first step and stays with it to the last. A row that has ended keeps its
state; what is written of it is zero.
"""

import triton
import triton.language as tl

from recurra.ops.kernels.cell_gates import forward, pullback


@triton.jit
def _place(batch, channels, BLOCK_B: tl.constexpr, BLOCK_C: tl.constexpr):
    """Rows [BLOCK_B, 1], channels of a head [1, BLOCK_C], and which of them there are."""
    row = (tl.program_id(0) * BLOCK_B + tl.arange(0, BLOCK_B))[:, None]
    channel = tl.arange(0, BLOCK_C)[None, :]
    return row.to(tl.int64), channel, (row < batch) & (channel < channels)


@triton.jit
def _lengths(lengths, row, batch, time):
    length = tl.where(row < batch, time, 0)
    if lengths is not None:
        given = tl.load(lengths + row, mask=row < batch, other=0)
        length = tl.minimum(tl.maximum(given, 0), time).to(tl.int32)
    return length


@triton.jit
def _moment(step, length, REVERSE: tl.constexpr):
    """Where the rows stand in time at a step, the ended ones in their padding, and which live."""
    live = step < length
    return (tl.where(live, length - 1 - step, step) if REVERSE else step + length * 0), live


@triton.jit
def _is_cut(reset, row, at, live, length, time, REVERSE: tl.constexpr):
    """As `tiles.is_cut`, of many rows."""
    at = at + 1 if REVERSE else at
    return tl.load(reset + row * time + at, mask=live & (at < length), other=0) != 0


@triton.jit
def _load_states(state, row, channel, inside, batch, width, STATES: tl.constexpr):
    """h, c, n, m of [states, B, H]; those that there are not are zero."""
    at, size = row * width + channel, tl.cast(batch, tl.int64) * width
    h = tl.load(state + at, mask=inside, other=0.0)
    c, n, m = h * 0.0, h * 0.0, h * 0.0
    if STATES > 1:
        c = tl.load(state + size + at, mask=inside, other=0.0)
    if STATES > 2:
        n = tl.load(state + 2 * size + at, mask=inside, other=0.0)
        m = tl.load(state + 3 * size + at, mask=inside, other=0.0)
    return h, c, n, m


@triton.jit
def _store_states(state, h, c, n, m, row, channel, inside, batch, width, STATES: tl.constexpr):
    at, size = row * width + channel, tl.cast(batch, tl.int64) * width
    tl.store(state + at, h, mask=inside)
    if STATES > 1:
        tl.store(state + size + at, c, mask=inside)
    if STATES > 2:
        tl.store(state + 2 * size + at, n, mask=inside)
        tl.store(state + 3 * size + at, m, mask=inside)


@triton.jit
def _load_parts(first, stride, mask, PARTS: tl.constexpr):
    """The parts of a gate, `stride` apart, as fp32."""
    x0 = tl.load(first, mask=mask, other=0.0).to(tl.float32)
    x1 = tl.load(first + stride, mask=mask, other=0.0).to(tl.float32)
    x2 = tl.load(first + 2 * stride, mask=mask, other=0.0).to(tl.float32)
    x3 = x2
    if PARTS == 4:
        x3 = tl.load(first + 3 * stride, mask=mask, other=0.0).to(tl.float32)
    return x0, x1, x2, x3


@triton.jit
def _store_parts(first, stride, mask, live, xs, PARTS: tl.constexpr):
    for i in tl.static_range(PARTS):
        tl.store(first + i * stride, tl.where(live, xs[i], 0.0).to(first.dtype.element_ty), mask=mask)


@triton.jit
def _load_weights(weight, head, channels, PARTS: tl.constexpr, BLOCK_C: tl.constexpr, TURNED: tl.constexpr):
    """W_hh of a head, part by part: [C, C], outputs by inputs, or turned."""
    one, other = tl.arange(0, BLOCK_C)[:, None], tl.arange(0, BLOCK_C)[None, :]
    at = other * channels + one if TURNED else one * channels + other
    size = channels * channels
    first = weight + tl.cast(head, tl.int64) * PARTS * size + at
    mask = (one < channels) & (other < channels)
    w0 = tl.load(first, mask=mask, other=0.0)
    w1 = tl.load(first + size, mask=mask, other=0.0)
    w2 = tl.load(first + 2 * size, mask=mask, other=0.0)
    w3 = w2
    if PARTS == 4:
        w3 = tl.load(first + 3 * size, mask=mask, other=0.0)
    return w0, w1, w2, w3


@triton.jit
def _times(x, w, PRECISION: tl.constexpr):
    return tl.dot(x.to(w.dtype), w, input_precision=PRECISION)


@triton.jit
def _of_view(x, row, at, column):
    return x.data + row * x.batch + tl.cast(at, tl.int64) * x.time + column


@triton.jit
def run(
    x, weight, bias, y, state, state_n, reset, lengths, batch, time, width, channels,
    CELL: tl.constexpr, PARTS: tl.constexpr, STATES: tl.constexpr, REVERSE: tl.constexpr,
    BLOCK_B: tl.constexpr, BLOCK_C: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """y and the last states."""
    row, channel, inside = _place(batch, channels, BLOCK_B, BLOCK_C)
    head, length = tl.program_id(1), _lengths(lengths, row, batch, time)
    column = head * channels + channel
    w0, w1, w2, w3 = _load_weights(weight, head, channels, PARTS, BLOCK_C, True)
    b = _load_parts(bias + column, width, channel < channels, PARTS)
    h, c, n, m = _load_states(state, row, column, inside, batch, width, STATES)
    for step in range(time):
        at, live = _moment(step, length, REVERSE)
        if reset is not None:
            cut = _is_cut(reset, row, at, live, length, time, REVERSE)
            h, c = tl.where(cut, 0.0, h), tl.where(cut, 0.0, c)
            n, m = tl.where(cut, 0.0, n), tl.where(cut, 0.0, m)
        xs = _load_parts(_of_view(x, row, at, column), width, inside & live, PARTS)
        r0, r1 = _times(h, w0, PRECISION) + b[0], _times(h, w1, PRECISION) + b[1]
        r2 = _times(h, w2, PRECISION) + b[2]
        r3 = r2
        if PARTS == 4:
            r3 = _times(h, w3, PRECISION) + b[3]
        h_next, c_next, n_next, m_next = forward(xs, (r0, r1, r2, r3), h, c, n, m, CELL)
        h, c = tl.where(live, h_next, h), tl.where(live, c_next, c)
        n, m = tl.where(live, n_next, n), tl.where(live, m_next, m)
        out = tl.where(live, h, 0.0).to(y.data.dtype.element_ty)
        tl.store(_of_view(y, row, at, column), out, mask=inside)
    _store_states(state_n, h, c, n, m, row, column, inside, batch, width, STATES)


@triton.jit
def remember(
    x, before, recurrent, memory, state, reset, lengths, batch, time, width, channels,
    CELL: tl.constexpr, PARTS: tl.constexpr, STATES: tl.constexpr, REVERSE: tl.constexpr,
    BLOCK_B: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    """c, n and m as every step saw them, into memory [states - 1, B, T, H]; all h and W_hh h are known."""
    row, channel, inside = _place(batch, channels, BLOCK_B, BLOCK_C)
    head, length = tl.program_id(1), _lengths(lengths, row, batch, time)
    column, size = head * channels + channel, tl.cast(batch, tl.int64) * time * width
    _, c, n, m = _load_states(state, row, column, inside, batch, width, STATES)
    for step in range(time):
        at, live = _moment(step, length, REVERSE)
        if reset is not None:
            cut = _is_cut(reset, row, at, live, length, time, REVERSE)
            c, n, m = tl.where(cut, 0.0, c), tl.where(cut, 0.0, n), tl.where(cut, 0.0, m)
        moment = row * time + at
        keep = memory + moment * width + column
        tl.store(keep, c, mask=inside)
        if STATES > 2:
            tl.store(keep + size, n, mask=inside)
            tl.store(keep + 2 * size, m, mask=inside)
        mask = inside & live
        xs = _load_parts(_of_view(x, row, at, column), width, mask, PARTS)
        steps = tl.cast(head, tl.int64) * batch * time + moment
        ws = _load_parts(recurrent + steps * (PARTS * channels) + channel, channels, mask, PARTS)
        h = tl.load(before + moment * width + column, mask=mask, other=0.0)
        _, c_next, n_next, m_next = forward(xs, ws, h, c, n, m, CELL)
        c, n, m = tl.where(live, c_next, c), tl.where(live, n_next, n), tl.where(live, m_next, m)


@triton.jit
def run_back(
    x, before, recurrent, memory, weight, dy, dx, dstate_n, dstate, reset, lengths,
    batch, time, width, channels,
    CELL: tl.constexpr, PARTS: tl.constexpr, STATES: tl.constexpr, REVERSE: tl.constexpr,
    BLOCK_B: tl.constexpr, BLOCK_C: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """dx, the gradients of W_hh h + bias in its place, and those of the first states."""
    row, channel, inside = _place(batch, channels, BLOCK_B, BLOCK_C)
    head, length = tl.program_id(1), _lengths(lengths, row, batch, time)
    column, size = head * channels + channel, tl.cast(batch, tl.int64) * time * width
    w0, w1, w2, w3 = _load_weights(weight, head, channels, PARTS, BLOCK_C, False)
    dh, dc, dn, dm = _load_states(dstate_n, row, column, inside, batch, width, STATES)
    for i in range(time):
        step = time - 1 - i
        at, live = _moment(step, length, REVERSE)
        moment, mask = row * time + at, inside & live
        xs = _load_parts(_of_view(x, row, at, column), width, mask, PARTS)
        steps = tl.cast(head, tl.int64) * batch * time + moment
        mixed = recurrent + steps * (PARTS * channels) + channel
        ws = _load_parts(mixed, channels, mask, PARTS)
        h = tl.load(before + moment * width + column, mask=mask, other=0.0)
        c, n, m = h * 0.0, h * 0.0, h * 0.0
        if STATES > 1:
            c = tl.load(memory + moment * width + column, mask=mask, other=0.0)
        if STATES > 2:
            n = tl.load(memory + size + moment * width + column, mask=mask, other=0.0)
            m = tl.load(memory + 2 * size + moment * width + column, mask=mask, other=0.0)
        dh += tl.load(_of_view(dy, row, at, column), mask=mask, other=0.0).to(tl.float32)
        dxs, dws, dh_next, dc_next, dn_next, dm_next = pullback(xs, ws, h, c, n, m, dh, dc, dn, dm, CELL)
        _store_parts(_of_view(dx, row, at, column), width, inside, live, dxs, PARTS)
        _store_parts(mixed, channels, inside, live, dws, PARTS)
        dh_next += _times(dws[0], w0, PRECISION) + _times(dws[1], w1, PRECISION)
        dh_next += _times(dws[2], w2, PRECISION)
        if PARTS == 4:
            dh_next += _times(dws[3], w3, PRECISION)
        dh, dc = tl.where(live, dh_next, dh), tl.where(live, dc_next, dc)
        dn, dm = tl.where(live, dn_next, dn), tl.where(live, dm_next, dm)
        if reset is not None:
            cut = _is_cut(reset, row, at, live, length, time, REVERSE)
            dh, dc = tl.where(cut, 0.0, dh), tl.where(cut, 0.0, dc)
            dn, dm = tl.where(cut, 0.0, dn), tl.where(cut, 0.0, dm)
    _store_states(dstate, dh, dc, dn, dm, row, column, inside, batch, width, STATES)
