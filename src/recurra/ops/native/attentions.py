"""Calls of attention of single queries (csrc/attention.h)."""

import struct

import torch
from torch import Tensor

from recurra.ops.native.layout import pointer
from recurra.ops.native.library import DTYPES, STATES, call, threads_for

_ATTENTION = struct.Struct("10qd14q")
_CROSS = struct.Struct("13q")
_LANES = 16  # what scratch_row in csrc/abi.h is rounded to

Entries = tuple[Tensor, Tensor]


def attention_step(
    qkv: Tensor,
    old: Entries,
    new: Entries,
    room: Entries,
    begin: Tensor | None,
    position: Tensor,
    window: int,
    base: float,
) -> tuple[Tensor, Tensor]:
    """(y [B, G, H, C], position + 1) of qkv [B, G + 2, H, C]; the step's own entry goes into the room.

    Keys and values [B, H, S, C] old, new, and with room for one more, into which the new ones are copied
    unless they lie there already, position - begin of them; all contiguous and of one dtype (unchecked).
    """
    batch, lists, heads, channels = qkv.shape
    y, position_n = qkv.new_empty(batch, lists - 2, heads, channels), torch.empty_like(position)
    entries, state = old[0].shape[2] + room[0].shape[2], STATES[qkv.dtype]
    row = channels + -(-entries // _LANES) * _LANES
    turns, scratch = (qkv.new_empty(batch, *size, dtype=state) for size in ((channels,), (heads, row)))
    if not y.numel():
        return y, position + 1
    head = (DTYPES[qkv.dtype], threads_for(entries * y.numel() // 4), batch, heads, channels)
    steps = (old[0].shape[2], new[0].shape[2], room[0].shape[2], window, lists - 2, base)
    tensors = (qkv, *old, *new, *room)
    ends = (pointer(begin), *(x.data_ptr() for x in (position, position_n, y, turns, scratch)))
    call("attention_step", _ATTENTION.pack(*head, *steps, *(x.data_ptr() for x in tensors), *ends, row))
    return y, position_n


def cross_attention(q: Tensor, memory: Tensor, lengths: Tensor) -> Tensor:
    """y [B, T, H, C] of q [B, T, H, C] and memory [B, 2, H, S, C], of whose row b lengths[b] entries count.

    All contiguous, q and memory of one dtype, lengths int64 (unchecked).
    """
    batch, queries, heads, channels = q.shape
    steps = memory.shape[3]
    row = channels + -(-steps // _LANES) * _LANES
    y, scratch = torch.empty_like(q), q.new_empty(batch, heads, row, dtype=STATES[q.dtype])
    if y.numel():
        head = (DTYPES[q.dtype], threads_for(steps * y.numel() // 4), batch, queries, heads, channels, steps)
        tensors = (x.data_ptr() for x in (q, memory, lengths, y, scratch))
        call("cross_attention", _CROSS.pack(*head, *tensors, row))
    return y
