"""Causal softmax attention with rotary positions; its state is what it may still read.

Keys are kept rotated by their own position, so that a new query meets them as they are: a score depends on
the difference of two positions alone.
"""

import math
from contextlib import nullcontext
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import pad, scaled_dot_product_attention

from recurra.ops import native
from recurra.ops.cross_attention import cross_attention
from recurra.ops.masks import check, cuts, living, may_look, spoilt
from recurra.ops.registry import forward_mode, unobserved
from recurra.state import KVState

__all__ = ["KVRoom", "attention", "attention_step", "two_way_attention", "with_room"]

# Queries that are masked at a time: bounds the memory of a mask, and of a band that a window cuts out.
QUERIES = 512
# Steps whose keys stand apart from the old ones: a step copies 32 of them on average, and all of the
# cache once in 64 steps, a thirtieth of what it reads.
APART = 64
# Steps that a cache has room for at the least; else for as many as it holds, so that it seldom moves.
ROOM = 256


class KVRoom(NamedTuple):
    """A KVState with room for further steps, of one who takes each state once: a step writes into the room.

    The first position - begin of room_*, [B, H, R, C], are the newest entries. Not to be saved or handed on:
    `closed` is the state in its usual form.
    """

    keys: Tensor
    values: Tensor
    room_keys: Tensor
    room_values: Tensor
    begin: Tensor
    position: Tensor

    def closed(self) -> KVState:
        """What it says now, by views of the same memory."""
        used = int(self.position[0] - self.begin[0])
        new_keys, new_values = self.room_keys[:, :, :used], self.room_values[:, :, :used]
        return KVState(self.keys, self.values, new_keys, new_values, self.position)


class Heads(NamedTuple):
    """Keys and values of every head, [B, H, T, C], and the queries of each, one head behind the other,
    [B, H G, T, C]."""

    q: Tensor
    k: Tensor
    v: Tensor

    def shared(self) -> "Heads":
        """The same with a copy of its keys and values for each query."""
        group = self.q.shape[1] // self.k.shape[1]
        k, v = (x if group == 1 else x.repeat_interleave(group, 1) for x in (self.k, self.v))
        return Heads(self.q, k, v)


def _turns(position: Tensor, channels: int, base: float) -> Tensor:
    """exp(i position base^(-2 j / C)), [..., C / 2], in fp64: late positions are as exact as early ones."""
    exponent = torch.arange(0, channels, 2, device=position.device, dtype=torch.float64) / channels
    angle = position.double()[..., None] * base**-exponent
    return torch.polar(torch.ones_like(angle), angle)


def _positions(time: int, cut: Tensor | None, position: Tensor | None, device: torch.device) -> Tensor:
    """[B or 1, T]: steps since the start of the row or its last reset."""
    steps = torch.arange(time, device=device)[None]
    since = steps if position is None else steps + position[:, None]
    if cut is None:
        return since
    last = torch.where(cut, steps, -1).cummax(1).values
    return torch.where(last < 0, since, steps - last)


def _rotate(qkv: Tensor, turns: Tensor) -> Heads:
    """The heads of qkv [B, T, G + 2, H, C], channels 2j and 2j+1 of q and k turned as one complex number."""
    wide = torch.promote_types(qkv.dtype, torch.float32)
    pairs = torch.view_as_complex(qkv.contiguous()[:, :, :-1].to(wide).unflatten(-1, (-1, 2)))
    turned = torch.view_as_real(pairs * turns[:, :, None, None].to(pairs.dtype)).flatten(-2).to(qkv.dtype)
    q = turned[:, :, :-1].transpose(1, 3).flatten(1, 2)
    return Heads(q, turned[:, :, -1].transpose(1, 2), qkv[:, :, -1].transpose(1, 2))


def _side_by_side(y: Tensor, heads: int) -> Tensor:
    """[B, T, G H, C] of what was read, [B, H G, T, C]: in the order of the queries of qkv."""
    side: Tensor = y.unflatten(1, (heads, -1)).transpose(1, 3).flatten(2, 3)
    return side


def _visible(first: int, last: int, begin: int, heads: Heads, segment: Tensor, window: int) -> Tensor:
    """[B, 1, queries, keys] bool: queries first..last may read keys begin..., counted with the old ones."""
    old = segment.shape[1] - heads.q.shape[2]
    query = torch.arange(first, last, device=segment.device)[:, None] + old
    key = torch.arange(begin, last + old, device=segment.device)
    seen = key <= query
    if window:
        seen = seen & (query - key < window)
    same = segment[:, None, begin : last + old] == segment[:, first + old : last + old, None]
    return (seen & same)[:, None]


def _fused(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
    """torch's attention, causal without a mask; in forward mode by the only kernel that has one."""
    with sdpa_kernel(SDPBackend.MATH) if forward_mode() else nullcontext():
        return scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=mask is None)


def _masked(heads: Heads, segment: Tensor, window: int) -> Tensor:
    """Attention within segments [B, S + T] and the window; the last T entries are the queries' own."""
    (q, k, v), old, ys = heads, segment.shape[1] - heads.q.shape[2], []
    for first in range(0, q.shape[2], QUERIES):
        last = min(first + QUERIES, q.shape[2])
        begin = max(0, first + old + 1 - window) if window else 0
        mask = _visible(first, last, begin, heads, segment, window)
        keys, values = (x[:, :, begin : last + old] for x in (k, v))
        ys.append(_fused(*Heads(q[:, :, first:last], keys, values).shared(), mask))
    return torch.cat(ys, 2)


def _contained(heads: Heads, cut: Tensor, segment: Tensor, window: int) -> Tensor:
    """The same, where nothing that is not finite crosses a cut, as weights of zero would let it: it is left
    out, and its segment is NaN from there on."""
    old = segment.shape[1] - cut.shape[1]
    # Of one number a step: isfinite of all takes twenty times as long.
    q, k, v = (~x.detach().abs().amax((1, 3)).isfinite() for x in heads)
    bad = k | v | pad(q, (old, 0))
    if may_look(bad.device) and not bad.any():
        return _masked(heads, segment, window)
    clean = Heads(*(x.masked_fill(bad[:, None, -x.shape[2] :, None], 0) for x in heads))
    behind = spoilt(bad & (segment >= 0), pad(cut, (old, 0)))[:, None, old:, None]
    return _masked(clean, segment, window).masked_fill(behind, math.nan)


def _segments(time: int, cut: Tensor | None, held: Tensor, old: int) -> Tensor:
    """[B, old + T]: entries with one number may see each other; old ones that are not the row's have -1."""
    batch = held.shape[0]
    before = torch.where(torch.arange(old, device=held.device) < old - held[:, None], -1, 0)
    after = held.new_zeros(batch, time) if cut is None else cut.long().cumsum(1)
    return torch.cat([before, after], 1)


def _attend(heads: Heads, cut: Tensor | None, held: Tensor, window: int) -> Tensor:
    """y [B, H G, T, C]; without masks where causality is all."""
    time, entries = heads.q.shape[2], heads.k.shape[2]
    if not time or (cut is None and time == entries and not 0 < window < time):
        return _fused(*heads.shared())
    segment = _segments(time, cut, held, entries - time)
    return _masked(heads, segment, window) if cut is None else _contained(heads, cut, segment, window)


def _last(x: Tensor, window: int) -> Tensor:
    """What a next step may read of entries [B, H, S, C]: the last window - 1, or all."""
    return x[:, :, max(x.shape[2] - window + 1, 0) :] if window else x


def _state(k: Tensor, v: Tensor, position: Tensor) -> KVState:
    return KVState(k, v, k[:, :, :0], v[:, :, :0], position)


def _kept(heads: Heads, position: Tensor, lengths: Tensor | None, window: int) -> KVState:
    """The state after the last step of each row: its entries moved to the end, nobody's made zero."""
    _, k, v = heads
    if lengths is not None:
        late = heads.q.shape[2] - lengths[:, None]
        source = (torch.arange(k.shape[2], device=k.device) - late).clamp(min=0)[:, None, :, None]
        k, v = (x.take_along_dim(source, 2) for x in (k, v))
    k, v = _last(k, window), _last(v, window)
    entries = k.shape[2]
    other = (torch.arange(entries, device=k.device) < entries - position[:, None])[:, None, :, None]
    k, v = k.masked_fill(other, 0), v.masked_fill(other, 0)
    if may_look(k.device) and len(position):  # elsewhere zeros are carried along
        unused = max(entries - int(position.max()), 0)
        k, v = k[:, :, unused:], v[:, :, unused:]
    return _state(k, v, position)


def _whole(state: KVState) -> tuple[Tensor, Tensor]:
    return torch.cat([state.keys, state.new_keys], 2), torch.cat([state.values, state.new_values], 2)


def _behind(state: KVState, heads: Heads) -> Heads:
    """The heads with the state's keys and values in front of theirs."""
    k, v = _whole(state)
    return Heads(heads.q, torch.cat([k, heads.k], 2), torch.cat([v, heads.v], 2))


def _check(state: KVState | KVRoom, qkv: Tensor) -> None:
    batch, heads, channels = qkv.shape[0], *qkv.shape[-2:]
    for x in state[:4]:
        if x.ndim != 4 or (x.shape[0], x.shape[1], x.shape[3]) != (batch, heads, channels):
            raise ValueError(f"state must be [{batch}, {heads}, steps, {channels}], got {list(x.shape)}")
    for x, like in ((state[1], state[0]), (state[3], state[2])):
        if x.shape != like.shape:
            raise ValueError(f"state must have as many values as keys, {like.shape[2]}, got {x.shape[2]}")
    if tuple(state.position.shape) != (batch,):
        raise ValueError(f"state.position must be [{batch}], got {list(state.position.shape)}")
    if state.keys.device != qkv.device:
        raise ValueError(f"state is on {state.keys.device}, the input on {qkv.device}")


def _checked(state: KVState, qkv: Tensor) -> KVState:
    """The state in the dtype of qkv."""
    _check(state, qkv)
    k, v, new_k, new_v = (x.to(qkv.dtype) for x in state[:4])
    return KVState(k, v, new_k, new_v, state.position)


def _end(position: Tensor, lengths: Tensor | None, held: Tensor) -> Tensor:
    """[B]: the position that comes next, from those of the steps taken and the one held before them."""
    if not position.shape[1]:
        return held
    if lengths is None:
        return (position[:, -1] + 1).expand(len(held))
    last = position.expand(len(held), -1).gather(1, (lengths - 1).clamp(min=0)[:, None])[:, 0]
    return torch.where(lengths > 0, last + 1, held)


def attention(
    qkv: Tensor,
    state: KVState | None = None,
    reset: Tensor | None = None,
    lengths: Tensor | None = None,
    *,
    window: int = 0,
    base: float = 10000.0,
) -> tuple[Tensor, KVState]:
    """y_t = sum_s p_ts v_s, p_t = softmax over s <= t of <R_t q_t, R_s k_s> / sqrt(C), in each head.

    Arxiv 1706.03762, equation 1; R_t turns channels 2j and 2j+1 by the angle t base^(-2j/C), arXiv
    2104.09864, equation 15. qkv [B, T, G + 2, H, C], C even: G queries, 1 in most models, to each of H keys
    and values (arXiv 2305.13245); window: t reads itself and the window - 1 steps before it, 0: all. reset,
    lengths as in `ops.masks`: nothing is read across a reset. Returns y [B, T, G H, C] and the state. Raises
    ValueError that names the argument.
    """
    batch, time = _sizes(qkv, ("batch", "time"), window)
    reset, lengths = check(batch, time, qkv.device, reset, lengths)
    cut, alive = cuts(reset, lengths, False), living(lengths, time)
    held = torch.zeros(batch, dtype=torch.int64, device=qkv.device)
    held = held if state is None else _checked(state, qkv).position
    position = _positions(time, cut, None if state is None else held, qkv.device)
    # Weights of zero do not keep out what is not finite.
    qkv = qkv if alive is None else qkv.masked_fill(~alive[..., None, None, None], 0)
    heads = _rotate(qkv, _turns(position, qkv.shape[-1], base))
    heads = heads if state is None else _behind(_checked(state, qkv), heads)
    y = _side_by_side(_attend(heads, cut, held, window), qkv.shape[3])
    y = y if alive is None else y.masked_fill(~alive[..., None, None], 0)
    end = _end(position, lengths, held)
    if cut is None and lengths is None:
        return y, _state(_last(heads.k, window), _last(heads.v, window), end)
    return y, _kept(heads, end, lengths, window)


def two_way_attention(qkv: Tensor, lengths: Tensor | None = None, *, base: float = 10000.0) -> Tensor:
    """The same over all steps of a row, those after t as well: y [B, T, G H, C] of a whole sequence alone."""
    batch, time = _sizes(qkv, ("batch", "time"), 0)
    _, lengths = check(batch, time, qkv.device, None, lengths)
    position = _positions(time, None, None, qkv.device)
    heads = _rotate(qkv, _turns(position, qkv.shape[-1], base)).shared()
    q, k, v = (x.transpose(1, 2) for x in heads)
    read = cross_attention(q, k, v, lengths).transpose(1, 2)
    y, alive = _side_by_side(read, qkv.shape[3]), living(lengths, time)
    return y if alive is None else y.masked_fill(~alive[..., None, None], 0)


def attention_step(
    qkv: Tensor, state: KVState | KVRoom | None = None, *, window: int = 0, base: float = 10000.0
) -> tuple[Tensor, KVState | KVRoom]:
    """One step of `attention`: y_t [B, G H, C] and the state, of the same kind, from qkv [B, G + 2, H, C]."""
    _sizes(qkv, ("batch",), window)
    if isinstance(state, KVRoom):
        return _step_in_room(qkv, state, window, base)
    if state is None:
        y, state = attention(qkv[:, None], window=window, base=base)
        return y[:, 0], state
    old = _checked(state, qkv)
    old = KVState(*(x.contiguous() for x in old))  # once: later ones are as they should be
    step = step_native if unobserved(qkv, *old) and _fits(old, qkv) else step_open
    y, state = step(qkv, old, window, base)
    return y, _joined(state, window) if state.new_keys.shape[2] >= APART else state


def step_open(qkv: Tensor, old: KVState, window: int, base: float) -> tuple[Tensor, KVState]:
    """Plain torch on any device, differentiable: the definition."""
    position = old.position
    q, k, v = _rotate(qkv[:, None], _turns(position[:, None], qkv.shape[-1], base))
    new_keys, new_values = torch.cat([old.new_keys, k], 2), torch.cat([old.new_values, v], 2)
    q = q.view(*k.shape[:2], -1, k.shape[3])  # one step: the queries of a head stand where steps would
    scores = torch.cat([q @ old.keys.mT, q @ new_keys.mT], 3) / math.sqrt(qkv.shape[-1])
    readable = (position + 1).clamp(max=window) if window else position + 1
    other = torch.arange(scores.shape[3], device=q.device) < scores.shape[3] - readable[:, None]
    wide = torch.promote_types(q.dtype, torch.float32)
    weights = scores.masked_fill(other[:, None, None], -math.inf).softmax(3, dtype=wide).to(q.dtype)
    count = old.keys.shape[2]
    y = weights[..., :count] @ old.values + weights[..., count:] @ new_values
    y = y.transpose(1, 2).flatten(1, 2)
    return y, KVState(old.keys, old.values, new_keys, new_values, position + 1)


def _fits(state: KVState | KVRoom, qkv: Tensor) -> bool:
    """True where the kernel can take them."""
    return native.takes(qkv, *state[:4]) and state.position.dtype == torch.int64


def step_native(qkv: Tensor, old: KVState, window: int, base: float) -> tuple[Tensor, KVState]:
    """The C++ step (unchecked): the new entries are copied, for the state given stays as it is."""
    batch, heads, count, channels = old.new_keys.shape
    keys, values = qkv.new_empty(2, batch, heads, count + 1, channels).unbind(0)
    entries = (old.keys, old.values), (old.new_keys, old.new_values), (keys, values)
    y, position = native.attention_step(qkv.contiguous(), *entries, None, old.position, window, base)
    return y.flatten(1, 2), KVState(old.keys, old.values, keys, values, position)


def with_room(state: KVState, window: int) -> KVRoom:
    """A copy of the state with room for ROOM steps, or as many as it has entries."""
    keys, values, _, _, position = _joined(state, window)
    batch, heads, entries, channels = keys.shape
    new_keys, new_values = keys.new_empty(2, batch, heads, max(ROOM, entries), channels).unbind(0)
    return KVRoom(keys, values, new_keys, new_values, position.clone(), position.clone())


def _step_in_room(qkv: Tensor, state: KVRoom, window: int, base: float) -> tuple[Tensor, KVRoom]:
    _check(state, qkv)
    if not (unobserved(qkv, *state) and _fits(state, qkv)):
        raise native.NotRecordableError("room in a cache is for the kernels alone")
    room = state.room_keys, state.room_values
    given = qkv.contiguous(), (state.keys, state.values), room, room
    y, position = native.attention_step(*given, state.begin, state.position, window, base)
    return y.flatten(1, 2), state._replace(position=position)


def _joined(state: KVState, window: int) -> KVState:
    """The new entries put to the old ones; what no window reaches any more is left out."""
    k, v = _whole(state)
    return _state(_last(k, window).contiguous(), _last(v, window).contiguous(), state.position)


def _sizes(qkv: Tensor, axes: tuple[str, ...], window: int) -> torch.Size:
    """The axes before those of the heads. Raises ValueError."""
    n = len(axes)
    if qkv.ndim != n + 3 or qkv.shape[n] < 3 or qkv.shape[-1] % 2 or not qkv.is_floating_point():
        got = f"{qkv.dtype} {list(qkv.shape)}"
        raise ValueError(f"qkv must be floating point [{', '.join(axes)}, 3 or more, heads, even], got {got}")
    if window < 0:
        raise ValueError(f"window must not be negative, got {window}")
    return qkv.shape[:n]
