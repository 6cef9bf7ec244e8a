"""The sLSTM layer: the same at once and one step at a time, both ways, and how it begins."""

import pytest
import torch

from recurra.layers import SLSTMLayer
from recurra.state import SLSTMState
from tools import close, masks, same_state, wake


@pytest.mark.parametrize("bias", [False, True])
def test_one_token_at_a_time(bias: bool) -> None:
    layer, x, ys = wake(SLSTMLayer(5, 12, heads=3, bias=bias)), torch.randn(2, 7, 5), []
    want, end = layer(x)
    now = None
    for x_t in x.unbind(1):
        y, now = layer.step(x_t, now)
        ys.append(y)
    close(torch.stack(ys, 1), want)
    same_state(now, end)
    assert isinstance(now, SLSTMState)


def test_reverse_reads_the_last_input_first() -> None:
    layer, x = wake(SLSTMLayer(5, 12)), torch.randn(2, 7, 5)
    other = SLSTMLayer(5, 12, reverse=True)
    other.load_state_dict(layer.state_dict())
    lengths = masks(2, 7, seed=0)[1]
    y, end = other(x, lengths=lengths)
    for row, length in enumerate(lengths.tolist()):
        want, last = layer(x[row : row + 1, :length].flip(1))
        close(y[row : row + 1, :length], want.flip(1))
        same_state(SLSTMState(*(part[row : row + 1] for part in end)), last)
    with pytest.raises(ValueError, match="reverse=True"):
        other.step(x[:, 0])


def test_it_begins_as_published() -> None:
    layer = SLSTMLayer(5, 24)
    assert layer.heads == 4
    assert not layer.weight_hh.any()
    i, f, z, o = layer.bias_ih.chunk(4)
    assert not torch.cat([i, z, o, layer.bias_hh]).any()
    for head in f.chunk(4):
        assert (head[0].item(), head[-1].item()) == (5, -7)
        assert (head.diff() < 0).all()


@pytest.mark.parametrize(("width", "heads"), [(16, 4), (12, 3), (10, 2), (6, 1)])
def test_heads_divide_the_width(width: int, heads: int) -> None:
    assert SLSTMLayer(5, width).heads == heads
    with pytest.raises(ValueError, match=f"heads must divide {width}, or be 0, got 11"):
        SLSTMLayer(5, width, heads=11)
