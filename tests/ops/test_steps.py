"""One step in one call of the kernels, from rows that are parts of wider ones: the step by definition."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from recurra.ops import native
from recurra.ops.block_product import block_product
from recurra.ops.causal_conv import causal_conv_step, conv_step
from recurra.ops.cell import take_cell_step
from recurra.ops.cell_forms import CELLS
from recurra.ops.diagonal import diagonal_step, from_planes, layer_step
from recurra.ops.outer import take_outer_step
from recurra.ops.outer_forms import Inputs, outer_step
from recurra.ops.selective import StepParameters, selective_step
from recurra.ops.selective import layer_step as selective_layer_step
from recurra.ops.softmax import softmax_step, take_step
from recurra.ops.token_mix import token_mix_open, token_mix_step
from recurra.state import ConvState, LinearState, OuterState, SelectiveState, SoftmaxState
from recurrences import NATIVE
from tools import close

REAL = (torch.float32, torch.float64, torch.bfloat16)
Both = tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]


def _part(batch: int, width: int, dtype: torch.dtype) -> Tensor:
    """[batch, width], the rows of which are the second thirds of longer ones."""
    return torch.randn(batch, 3, width).to(dtype)[:, 1]


def _state(*shape: int, dtype: torch.dtype) -> Tensor:
    return torch.randn(shape, dtype=native.STATES[dtype])


def _conv(batch: int, width: int, dtype: torch.dtype) -> Both:
    x, weight, bias = (
        _part(batch, width, dtype),
        torch.randn(width, 4).to(dtype),
        torch.randn(width).to(dtype),
    )
    state = _state(batch, 3, width, dtype=dtype)
    y, end = conv_step(x, ConvState(state), weight, bias)
    want, last = causal_conv_step(x.double(), ConvState(state.double()), weight.double(), bias.double())
    return (y, end.x), (want, last.x)


def _selective(batch: int, width: int, dtype: torch.dtype) -> Both:
    x, mixed, z = _part(batch, width, dtype), _part(batch, 17, dtype), _part(batch, width, dtype)
    W, (D, bias) = torch.randn(3, width).to(dtype), _state(2, width, dtype=dtype)
    A, state = -_state(7, width, dtype=dtype).exp(), _state(batch, 7, width, dtype=dtype)
    y, end = selective_layer_step(x, mixed, z, StepParameters(W, A, D, bias), SelectiveState(state))
    wide = [v.double() for v in (x, mixed[:, :3], A.t(), mixed[:, 3:10], mixed[:, 10:], D, bias, z, state)]
    wide[1] = wide[1] @ W.double()
    want, last = selective_step(*wide[:-1], SelectiveState(wide[-1]))  # type: ignore[call-arg]
    return (y, end.h), (want, last.h)


def _diagonal(batch: int, width: int, dtype: torch.dtype) -> Both:
    u, skip = _part(batch, width, dtype), _state(width, dtype=dtype)
    parameters, state = _state(5, 3, 2, width, dtype=dtype), _state(batch, 5, 2, width, dtype=dtype)
    y, end = layer_step(u, LinearState(state), parameters, skip)
    a, b, c = (from_planes(part.double()) for part in parameters.unbind(1))
    want, last = diagonal_step(u.double(), LinearState(state.double()), a, b, c, skip.double())
    return (y, end.h), (want, last.h)


def _average(batch: int, width: int, dtype: torch.dtype) -> Both:
    """As many scores as channels, with decay and bonus; the first score of each row has read nothing yet."""
    scores, values = 3 * torch.randn(2, batch, width).to(dtype)
    first = SoftmaxState(*_state(3, batch, width, dtype=dtype).abs())
    first.numerator[:, 0] = first.denominator[:, 0] = 0
    return _averaged(scores, values, first, *_state(2, width, dtype=dtype).abs())


def _heads(batch: int, width: int, dtype: torch.dtype) -> Both:
    """A score for two channels each, or one for all."""
    heads = 1 if width % 2 else width // 2
    scores, values = 3 * torch.randn(batch, heads).to(dtype), torch.randn(batch, width).to(dtype)
    size, total = _state(2, batch, heads, dtype=dtype).abs()
    return _averaged(scores, values, SoftmaxState(size, _state(batch, width, dtype=dtype), total))


def _averaged(scores: Tensor, values: Tensor, first: SoftmaxState, *vectors: Tensor) -> Both:
    y, end = take_step(scores, values, first, *vectors)
    assert all(part.is_contiguous() for part in end)
    wide = SoftmaxState(*(part.double() for part in first))
    want, last = softmax_step(scores.double(), values.double(), wide, *(v.double() for v in vectors))
    return (y, torch.cat(end, 1)), (want, torch.cat(last, 1))


def _token_mix(batch: int, width: int, dtype: torch.dtype) -> Both:
    x, mixes = torch.randn(batch, width).to(dtype), torch.rand(3, width).to(dtype)
    state = _state(batch, 1, width, dtype=dtype)
    ys, end = token_mix_step(x, tuple(mixes), ConvState(state))
    want, last = token_mix_open(x.double(), tuple(mixes.double()), ConvState(state.double()))
    return (torch.cat(ys), end.x), (torch.cat(want), last.x)


def _blocks(batch: int, width: int, dtype: torch.dtype) -> Both:
    """Of four channels each, and of all."""
    x, few = _part(batch, 4 * width, dtype), torch.randn(2, width, 4, 4).to(dtype)
    whole = torch.randn(1, 1, width, 4 * width).to(dtype)
    got = block_product((x, x), few.split(1)), block_product((x,), (whole,))
    want = torch.cat([x.double() @ torch.block_diag(*w.double()).T for w in few], 1)
    return got, (want, x.double() @ whole[0, 0].double().T)


def _cell(cell: str, batch: int, width: int, dtype: torch.dtype) -> Both:
    """As steps leave it, one of what n has read weighs 1; the first unit of each row has read nothing yet."""
    parts, heads = CELLS[cell].parts, 1 if cell != "slstm" or width % 2 else 2
    shape = (parts * width, width) if cell != "slstm" else (heads, parts * width // heads, width // heads)
    gates, bias = _part(batch, parts * width, dtype), _state(parts * width, dtype=dtype)
    weight = _state(*shape, dtype=dtype) / width**0.5
    first = list(_state(len(CELLS[cell].state._fields), batch, width, dtype=dtype))
    if cell == "slstm":
        first[2] = 1 + first[2].exp()
        first[1], first[2][:, 0] = first[2] * first[1].tanh(), 0
    y, end = take_cell_step(cell, gates, CELLS[cell].state(*first), weight, bias)
    wide = CELLS[cell].state(*(part.double() for part in first))
    want, last = CELLS[cell].step(gates.double(), wide, weight.double(), bias.double())
    return (y, torch.cat(end, 1)), (want, torch.cat(last, 1))


def _gru(batch: int, width: int, dtype: torch.dtype) -> Both:
    return _cell("gru", batch, width, dtype)


def _lstm(batch: int, width: int, dtype: torch.dtype) -> Both:
    return _cell("lstm", batch, width, dtype)


def _slstm(batch: int, width: int, dtype: torch.dtype) -> Both:
    return _cell("slstm", batch, width, dtype)


def _outer(batch: int, width: int, dtype: torch.dtype, bonus: bool = False) -> Both:
    """Two heads, with a gate or with a bonus; one sign in all: a divisor that cancels is all rounding."""
    q, k, v = (_part(2 * batch, n, dtype).abs().unflatten(0, (batch, 2)) for n in (width, width, 70))
    u = _state(2, width, dtype=dtype) if bonus else None
    decay = -torch.rand(batch, 2, *([width] if bonus else [])).to(dtype)
    gate = None if bonus else _part(batch, 2, dtype)
    shapes = (batch, 2, width, 70), (batch, 2, 0 if bonus else width), (batch, 0 if bonus else 2)
    first = OuterState(*(_state(*shape, dtype=dtype).abs() for shape in shapes))
    y, end = take_outer_step(q, k, v, decay, gate, first, bonus=u, scale=0.5)
    inputs = Inputs(q, k, v, decay, gate).each(Tensor.double)
    wide = OuterState(*(part.double() for part in first))
    want, last = outer_step(inputs, wide, None if u is None else u.double(), 0.5)
    return (y, torch.cat([x.flatten() for x in end])), (want, torch.cat([x.flatten() for x in last]))


def _outer_bonus(batch: int, width: int, dtype: torch.dtype) -> Both:
    return _outer(batch, width, dtype, bonus=True)


BOTH = [_conv, _selective, _diagonal, _average, _heads, _token_mix, _blocks]
BOTH += [_gru, _lstm, _slstm, _outer, _outer_bonus]


@NATIVE
@torch.no_grad()
@pytest.mark.parametrize("level", native.LEVELS)
@pytest.mark.parametrize("both", BOTH)
def test_steps(both: Callable[[int, int, torch.dtype], Both], level: str) -> None:
    before = native.level()
    if native.select(level) != level:
        pytest.skip(f"this machine has no {level}")
    try:
        for dtype in REAL:
            for batch, width in ((1, 1), (3, 17), (2, 64), (1, 130), (16, 3)):
                for got, want in zip(*both(batch, width, dtype), strict=True):
                    close(got, want)
    finally:
        native.select(before)


@torch.no_grad()
def test_a_state_of_another_shape() -> None:
    W, A, D, x, mixed = (torch.randn(s) for s in ((3, 5), (7, 5), (5,), (2, 5), (2, 17)))
    for shape in ((1, 7, 5), (2, 6, 5), (2, 7, 4)):
        with pytest.raises(ValueError, match=r"state must be \[batch, states, width\] = \[2, 7, 5\]"):
            selective_layer_step(x, mixed, x, StepParameters(W, A, D, D), SelectiveState(torch.randn(shape)))
