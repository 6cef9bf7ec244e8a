"""A step of attention by its kernel: the plain one is the truth, wherever the entries lie."""

import random
import sys
from typing import Any

import pytest
import torch
from torch import Tensor

from ops.recurrences import NATIVE
from recurra.ops import native
from recurra.state import KVState, apply
from tools import close, same_state

ops: Any = sys.modules["recurra.ops.attention"]  # the package's name of it is the function
BASE, HEADS = 10000.0, 3
DTYPES = [torch.float32, torch.float64, torch.bfloat16]
# Entries old and new, and steps since each row's start: from none to more than a cache holds.
CACHES = [(0, 0, [0]), (5, 0, [5, 2, 0]), (0, 4, [1, 900]), (33, 6, [39, 3, 20, 5000])]


def _drawn(
    old: int, new: int, positions: list[int], channels: int, dtype: torch.dtype, group: int = 1
) -> tuple[Tensor, KVState]:
    sizes, rows = (old, old, new, new), len(positions)
    entries = (torch.randn(rows, HEADS, count, channels).to(dtype) for count in sizes)
    return torch.randn(rows, group + 2, HEADS, channels).to(dtype), KVState(*entries, torch.tensor(positions))


def _poisoned(state: KVState, window: int) -> KVState:
    """NaN wherever a row must not read: no weight, however small, would make that good."""
    old, entries = state.keys.shape[2], state.keys.shape[2] + state.new_keys.shape[2]
    reach = state.position.clamp(max=window - 1) if window else state.position
    hidden = (torch.arange(entries) < entries - reach[:, None])[:, None, :, None]
    masks = [hidden[:, :, :old]] * 2 + [hidden[:, :, old:]] * 2
    parts = (x.masked_fill(mask, torch.nan) for x, mask in zip(state[:4], masks, strict=True))
    return KVState(*parts, state.position)


def _wide(state: KVState) -> KVState:
    return KVState(*(x.double() for x in state[:4]), state.position)


@NATIVE
@pytest.mark.parametrize(("old", "new", "positions"), CACHES)
@pytest.mark.parametrize("window", [0, 1, 3, 37])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("channels", "group"), [(2, 1), (16, 3), (70, 1), (130, 2)])
def test_the_kernel(
    old: int, new: int, positions: list[int], window: int, dtype: torch.dtype, channels: int, group: int
) -> None:
    qkv, state = _drawn(old, new, positions, channels, dtype, group)
    want, end = ops.step_open(qkv.double(), _wide(state), window, BASE)
    poisoned = _poisoned(state, window)
    given = apply(torch.clone, poisoned)
    y, last = ops.step_native(qkv, given, window, BASE)
    close(y, want)
    for x, expected in ((last.new_keys, end.new_keys), (last.new_values, end.new_values)):
        close(x[:, :, new:], expected[:, :, new:])
    kept = KVState(*last[:2], *(x[:, :, :new] for x in last[2:4]), given.position)
    for before, *others in zip(poisoned, given, kept, strict=True):
        assert all(before.nan_to_num().equal(x.nan_to_num()) for x in others)
    assert last.position.equal(state.position + 1)


@NATIVE
@pytest.mark.parametrize(("window", "group"), [(0, 1), (0, 2), (1, 1), (6, 3)])
@pytest.mark.parametrize("dtype", DTYPES)
def test_steps_into_a_room(
    window: int, group: int, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same as from state to state, also where one room is full and the next is made."""
    monkeypatch.setattr(ops, "ROOM", 4)
    _, state = _drawn(5, 2, [7, 0, 3], 10, dtype)
    before, now = apply(torch.clone, state), state
    room, rooms = ops.with_room(state, window), 1
    for _ in range(11):
        qkv = torch.randn(3, group + 2, HEADS, 10).to(dtype)
        if room.room_keys.shape[2] == int(room.position[0] - room.begin[0]):
            room, rooms = ops.with_room(room.closed(), window), rooms + 1
        with torch.no_grad():
            want, now = ops.attention_step(qkv, now, window=window)
            y, room = ops.attention_step(qkv, room, window=window)
        close(y, want)
        same_state(room.closed(), now)
    assert rooms > 1
    assert all(x.equal(y) for x, y in zip(state, before, strict=True))


@pytest.mark.parametrize("window", [0, 3])
def test_queries_of_one_key(window: int) -> None:
    """As if each query had a key and a value of its own, all the same; from a state too, and with masks."""
    group, time = 2, 9
    qkv, draw = torch.randn(2, time, group + 2, HEADS, 6, dtype=torch.float64), random.Random(0)
    alone = [torch.stack([qkv[:, :, j], *qkv[:, :, group:].unbind(2)], 2) for j in range(group)]
    cut = torch.zeros(2, time, dtype=torch.bool)
    cut[0, 4] = True
    for how in ({}, {"reset": cut, "lengths": torch.tensor([time, draw.randrange(1, time)])}):
        y, end = ops.attention(qkv[:, :5], window=window)
        y, end = ops.attention(qkv, end, window=window, **how)
        for j, one in enumerate(alone):
            _, last = ops.attention(one[:, :5], window=window)
            want, last = ops.attention(one, last, window=window, **how)
            close(y.unflatten(2, (group, HEADS))[:, :, j], want)
            same_state(end, last)
    both = ops.two_way_attention(qkv).unflatten(2, (group, HEADS))
    for j, one in enumerate(alone):
        close(both[:, :, j], ops.two_way_attention(one))


@NATIVE
def test_a_room_is_for_the_kernels_alone() -> None:
    qkv, state = _drawn(5, 0, [5], 8, torch.float32)
    room = ops.with_room(state, 0)
    for wrong in (qkv.double(), qkv.requires_grad_()):
        with pytest.raises(native.NotRecordableError, match="kernels alone"):
            ops.attention_step(wrong, room)
