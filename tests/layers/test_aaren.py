"""Aaren is torch.nn's MultiheadAttention of one learned query over every prefix."""

import re
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from recurra.layers import AarenLayer
from recurra.ops import native
from recurra.state import SoftmaxState
from tools import close, masks, same_state

BATCH, TIME, WIDTH = 3, 9, 12
HEADS = [1, 3, 12]
heads_of = pytest.mark.parametrize("heads", HEADS)


def _peer(layer: AarenLayer) -> nn.MultiheadAttention:
    """The same weights; no output projection, which is the block's."""
    peer = nn.MultiheadAttention(WIDTH, layer.heads, batch_first=True, dtype=torch.float64)
    peer.load_state_dict(
        {
            "in_proj_weight": layer.weight_ih.detach(),
            "in_proj_bias": layer.bias_ih.detach(),
            "out_proj.weight": torch.eye(WIDTH, dtype=torch.float64),
            "out_proj.bias": torch.zeros(WIDTH, dtype=torch.float64),
        }
    )
    return peer


def _prefixes(peer: Any, token: Tensor, x: Tensor, reset: Tensor, lengths: Tensor) -> Tensor:
    """Attention of the token over all that each step of x [B, T, I] may see, one after the other."""
    rows = []
    for row, length in enumerate(lengths.tolist()):
        ys, begin = [torch.zeros(TIME - length, WIDTH, dtype=x.dtype)], 0
        for t in reversed(range(length)):
            begin = max([s for s in range(t + 1) if reset[row, s]], default=0)
            seen = x[row : row + 1, begin : t + 1]
            ys.append(peer(token[None, None], seen, seen, need_weights=False)[0][0])
        rows.append(torch.cat(ys[::-1]))
    return torch.stack(rows)


@heads_of
def test_attention_over_each_prefix(heads: int) -> None:
    layer = AarenLayer(WIDTH, WIDTH, heads=heads, dtype=torch.float64)
    peer, token = _peer(layer), layer.token.detach().clone().requires_grad_()
    x, (reset, lengths) = torch.randn(BATCH, TIME, WIDTH, dtype=torch.float64), masks(BATCH, TIME, seed=3)
    lengths[0] = TIME
    mine, other = x.clone().requires_grad_(), x.clone().requires_grad_()
    y, _ = layer(mine, None, reset, lengths)
    want = _prefixes(peer, token, other, reset, lengths)
    close(y, want)
    seed = torch.randn_like(y)
    got = torch.autograd.grad(y, (mine, layer.token, layer.weight_ih, layer.bias_ih), seed)
    theirs = torch.autograd.grad(want, (other, token, peer.in_proj_weight, peer.in_proj_bias), seed)
    for one, wanted in zip(got, theirs, strict=True):
        close(one, wanted)


def test_backwards() -> None:
    torch.manual_seed(1)
    layer = AarenLayer(WIDTH, WIDTH, heads=3)
    torch.manual_seed(1)
    back = AarenLayer(WIDTH, WIDTH, heads=3, reverse=True)
    x = torch.randn(BATCH, TIME, WIDTH)
    y, end = layer(x.flip(1))
    got, last = back(x)
    close(got, y.flip(1))
    same_state(last, end)
    with pytest.raises(ValueError, match="reverse=True"):
        back.step(x[:, 0])


@heads_of
@pytest.mark.parametrize("bias", [True, False])
def test_one_step_at_a_time_and_in_chunks(heads: int, bias: bool) -> None:
    layer, x = AarenLayer(5, WIDTH, heads=heads, bias=bias), torch.randn(BATCH, TIME, 5)
    want, end = layer(x)
    now, ys = None, []
    for x_t in x.unbind(1):
        y, now = layer.step(x_t, now)
        ys.append(y)
    close(torch.stack(ys, 1), want)
    same_state(now, end)
    first, middle = layer(x[:, :4])
    rest, last = layer(x[:, 4:], middle)
    close(torch.cat([first, rest], 1), want)
    same_state(last, end)


def test_time_major_is_not_copied() -> None:
    layer, x = AarenLayer(5, WIDTH, heads=3), torch.randn(TIME, BATCH, 5)
    y, _ = layer(x.transpose(0, 1))
    assert y.transpose(0, 1).is_contiguous() or not native.available()
    close(y, layer(x.transpose(0, 1).contiguous())[0])


def test_a_head_has_about_64_channels() -> None:
    for width, heads in ((512, 8), (64, 1), (96, 2), (67, 1), (6, 1)):
        assert AarenLayer(4, width).heads == heads
    for heads in (-1, 5):
        with pytest.raises(ValueError, match=f"heads must divide 12, or be 0, got {heads}"):
            AarenLayer(4, 12, heads=heads)
    assert "4, 12, heads=3, bias=True, reverse=False" in repr(AarenLayer(4, 12, heads=3))


def test_wrong_inputs() -> None:
    layer, x = AarenLayer(5, WIDTH, heads=3), torch.randn(BATCH, TIME, 5)
    wrong = SoftmaxState(*(torch.zeros(BATCH, WIDTH) for _ in range(3)))
    for call, said in (
        (lambda: layer(x[0]), "x must be [batch, time, 5], got [9, 5]"),
        (lambda: layer(x.double()), "x is torch.float64, the weights are torch.float32"),
        (lambda: layer(x, wrong), "state must have max [3, 3] on cpu, got [3, 12] on cpu"),
        (lambda: layer.step(x), "x_t must be [batch, 5], got [3, 9, 5]"),
        (lambda: layer.step(x[:, 0], wrong), "state must have max [3, 3] on cpu, got [3, 12] on cpu"),
    ):
        with pytest.raises(ValueError, match=re.escape(said)):
            call()
