"""One step in one call of the kernels, from rows that are parts of wider ones: the step by definition."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from recurra.ops import native
from recurra.ops.causal_conv import causal_conv_step, conv_step
from recurra.ops.diagonal import diagonal_step, from_planes, layer_step
from recurra.ops.selective import StepParameters, selective_step
from recurra.ops.selective import layer_step as selective_layer_step
from recurra.ops.softmax import softmax_step, take_step
from recurra.ops.token_mix import token_mix_open, token_mix_step
from recurra.state import ConvState, LinearState, SelectiveState, SoftmaxState
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


@NATIVE
@torch.no_grad()
@pytest.mark.parametrize("level", native.LEVELS)
@pytest.mark.parametrize("both", [_conv, _selective, _diagonal, _average, _heads, _token_mix])
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
