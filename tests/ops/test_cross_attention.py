"""Attention to another sequence: torch's own with the same heads, the definition, and rows alone."""

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import multi_head_attention_forward

from ops.recurrences import NATIVE
from recurra.ops import native
from recurra.ops.attention import attention, two_way_attention
from recurra.ops.cross_attention import cross_attention, cross_attention_step, cross_weights, step_open
from tools import close

BATCH, TIME, SOURCE, HEADS, CHANNELS = 3, 4, 6, 2, 4
LENGTHS = torch.tensor([6, 2, 0])


def _drawn(dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor, Tensor]:
    shapes = ((BATCH, TIME), (BATCH, SOURCE), (BATCH, SOURCE))
    q, k, v = (torch.randn(*s, HEADS, CHANNELS, dtype=dtype, requires_grad=True) for s in shapes)
    return q, k, v


def _by_torch(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """nn.MultiheadAttention with matrices that do nothing."""
    width = HEADS * CHANNELS
    one, zeros = torch.eye(width, dtype=q.dtype), torch.zeros(3 * width, dtype=q.dtype)
    y, _ = multi_head_attention_forward(
        *(x.flatten(2).transpose(0, 1) for x in (q, k, v)), width, HEADS, torch.cat([one] * 3), zeros,
        None, None, False, 0.0, one, zeros[:width],
    )  # fmt: skip
    return y.transpose(0, 1).unflatten(-1, (HEADS, CHANNELS))


def test_it_is_that_of_torch() -> None:
    xs = _drawn()
    y, want, dy = cross_attention(*xs), _by_torch(*xs), torch.randn(BATCH, TIME, HEADS, CHANNELS).double()
    close(y, want)
    for got, other in zip(torch.autograd.grad(y, xs, dy), torch.autograd.grad(want, xs, dy), strict=True):
        close(got, other)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_rows_read_their_own_keys_alone(dtype: torch.dtype) -> None:
    q, k, v = (x.detach() for x in _drawn(dtype))
    for row, length in enumerate(LENGTHS.tolist()):
        k[row, length:], v[row, length:] = torch.nan, torch.inf
    y, p = cross_attention(q, k, v, LENGTHS), cross_weights(q, k, LENGTHS)
    for row, length in enumerate(LENGTHS.tolist()):
        one = slice(row, row + 1)
        assert not p[row, :, :, length:].any()
        if length:
            close(y[one], cross_attention(q[one], k[one, :length], v[one, :length]))
            close(y[row], torch.einsum("hts,shc->thc", p[row, :, :, :length], v[row, :length]))
    assert not y[2].any()


def _remembered(
    steps: int, channels: int, queries: int, dtype: torch.dtype
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Queries, a memory, its lengths, and what is to be read of it."""
    q = torch.randn(BATCH, queries, HEADS, channels).to(dtype)
    memory = torch.randn(BATCH, 2, HEADS, steps, channels).to(dtype)
    lengths = torch.tensor([steps, (steps + 1) // 2, 0])
    k, v = memory.double().transpose(2, 3).unbind(1)
    return q, memory, lengths, cross_attention(q.double(), k, v, lengths)


@NATIVE
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize(("steps", "channels", "queries"), [(1, 2, 1), (6, 70, 3), (16, 16, 1), (37, 130, 5)])
def test_the_kernel_of_a_step(steps: int, channels: int, queries: int, dtype: torch.dtype) -> None:
    q, memory, lengths, want = _remembered(steps, channels, queries, dtype)
    for row, length in enumerate(lengths.tolist()):
        memory[row, :, :, length:] = torch.nan
    close(native.cross_attention(q, memory, lengths), want)


@pytest.mark.parametrize("gradients", [False, True])
@pytest.mark.parametrize("count", [torch.int64, torch.int32])
@pytest.mark.parametrize("form", [cross_attention_step, step_open])
def test_a_step_is_the_same_attention(form: Any, count: torch.dtype, gradients: bool) -> None:
    q, memory, lengths, want = _remembered(7, 6, 2, torch.float32)
    with torch.set_grad_enabled(gradients):
        for given in (memory, memory.transpose(1, 3).contiguous().transpose(1, 3)):
            close(form(q, given, lengths.to(count))[:2], want[:2])  # the last row has nothing to read


def test_two_way_is_causal_attention_at_the_last_step_and_the_same_read_from_the_end() -> None:
    qkv = torch.randn(BATCH, TIME, 3, HEADS, CHANNELS, dtype=torch.float64)
    y = two_way_attention(qkv)
    close(y[:, -1], attention(qkv)[0][:, -1])
    # Read backwards every angle is the opposite one: so are channels 2j + 1 of queries and keys.
    mirror = torch.ones(3, 1, CHANNELS, dtype=torch.float64)
    mirror[:2, :, 1::2] = -1
    close(two_way_attention(qkv.flip(1) * mirror).flip(1), y)
    lengths = torch.tensor([4, 1, 2])
    masked = two_way_attention(qkv, lengths)
    for row, length in enumerate(lengths.tolist()):
        close(masked[row, :length], two_way_attention(qkv[row : row + 1, :length])[0])
        assert not masked[row, length:].any()


def test_wrong_shapes_are_named() -> None:
    q, k, v = _drawn()
    with pytest.raises(ValueError, match=r"k must be \[3, at least 1, 2, 4\], got \[3, 0, 2, 4\]"):
        cross_attention(q, k[:, :0], v[:, :0])
    with pytest.raises(ValueError, match="lengths must be integers"):
        cross_attention(q, k, v, LENGTHS[:2])
    memory = torch.stack([k, v], 1).transpose(2, 3)
    with pytest.raises(ValueError, match=r"memory must be \[3, 2, 2, steps, 4\], got \[3, 1, 2, 6, 4\]"):
        cross_attention_step(q, memory[:, :1], LENGTHS)
    with pytest.raises(ValueError, match=r"lengths must be \[3\], got \[2\]"):
        cross_attention_step(q, memory, LENGTHS[:2])
