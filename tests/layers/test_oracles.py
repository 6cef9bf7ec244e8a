"""Against what nobody here wrote: minGRU-pytorch with the same weights, and the paper's log-space scan."""

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import softplus

from recurra.layers import MinGRULayer, MinLSTMLayer
from recurra.state import LinearState
from tools import close

BATCH, TIME, DIM = 3, 50, 8


def _pair(ours: Any, theirs: Any, linear: str) -> tuple[Any, Any]:
    """Our layer with the weights of theirs; both lay out the candidate first, then the gates."""
    with torch.no_grad():
        ours.weight_ih.copy_(getattr(theirs, linear).weight)
    return ours, theirs


def _mingru(dtype: torch.dtype) -> tuple[Any, Any]:
    package = pytest.importorskip("minGRU_pytorch.minGRU")
    ours = MinGRULayer(DIM, DIM, bias=False, dtype=dtype)
    return _pair(ours, package.minGRU(DIM).to(dtype), "to_hidden_and_gate")


def _minlstm(dtype: torch.dtype) -> tuple[Any, Any]:
    package = pytest.importorskip("minGRU_pytorch.minLSTM")
    ours = MinLSTMLayer(DIM, DIM, bias=False, dtype=dtype)
    return _pair(ours, package.minLSTM(DIM).to(dtype), "to_hidden_and_f_i_gate")


# fp64, where their log-space scan is exact enough to judge by.
@pytest.mark.parametrize("pair", [_mingru, _minlstm])
@pytest.mark.parametrize("time", [1, TIME])
def test_package(pair: Any, time: int) -> None:
    ours, theirs = pair(torch.float64)
    x = torch.randn(BATCH, time, DIM, dtype=torch.float64, requires_grad=True)
    want, got = theirs(x), ours(x)[0]
    close(got, want, eps=1e4)
    dy = torch.randn_like(want)
    (dx,) = torch.autograd.grad(want, x, dy)
    close(torch.autograd.grad(got, x, dy)[0], dx, eps=1e4)


# Their minLSTM reads a carried state as if it were a raw parameter, so there is nothing to compare with.
@pytest.mark.parametrize("time", [1, TIME])
def test_package_with_carried_state(time: int) -> None:
    ours, theirs = _mingru(torch.float64)
    x = torch.randn(BATCH, 2, time, DIM, dtype=torch.float64)
    want, carried = theirs(x[:, 0], return_next_prev_hidden=True)
    got, state = ours(x[:, 0])
    close(state.h[:, None], carried, eps=1e4)
    want, carried = theirs(x[:, 1], carried, return_next_prev_hidden=True)
    got, state = ours(x[:, 1], state)
    close(got, want, eps=1e4)
    close(state.h[:, None], carried, eps=1e4)


# ----------------------------------------------------------------------------------------------
# The paper's own way (appendix B): everything in the logarithm, the scan after Heinsen.


def _log_g(k: Tensor) -> Tensor:
    return torch.where(k >= 0, (k.relu() + 0.5).log(), -softplus(-k))


def _log_scan(log_a: Tensor, log_b: Tensor, log_h_0: Tensor | None) -> Tensor:
    if log_h_0 is not None:
        log_b = torch.cat([log_h_0[:, None], log_b], 1)
        log_a = torch.cat([torch.zeros_like(log_h_0)[:, None], log_a], 1)
    sums = log_a.cumsum(1)
    log_h = sums + (log_b - sums).logcumsumexp(1)
    return log_h.exp() if log_h_0 is None else log_h[:, 1:].exp()


def _log_gates(layer: Any, x: Tensor) -> tuple[Tensor, Tensor]:
    k, *gates = torch.nn.functional.linear(x, layer.weight_ih, layer.bias_ih).chunk(layer.PARTS, -1)
    if isinstance(layer, MinGRULayer):
        return -softplus(gates[0]), -softplus(-gates[0]) + _log_g(k)
    f, i = gates
    if not layer.normalized:
        return -softplus(-f), -softplus(-i) + _log_g(k)
    difference = softplus(-f) - softplus(-i)
    return -softplus(difference), -softplus(-difference) + _log_g(k)


CELLS = {
    "mingru": lambda **how: MinGRULayer(DIM, DIM, dtype=torch.float64, **how),
    "minlstm": lambda **how: MinLSTMLayer(DIM, DIM, dtype=torch.float64, **how),
    "minlstm raw": lambda **how: MinLSTMLayer(DIM, DIM, dtype=torch.float64, normalized=False, **how),
}


@pytest.mark.parametrize("cell", list(CELLS))
@pytest.mark.parametrize("start", ["zero", "carried", "learned"])
def test_log_space(cell: str, start: str) -> None:
    layer = CELLS[cell](learned_state=start == "learned")
    x = torch.randn(BATCH, TIME, DIM, dtype=torch.float64)
    h_0 = torch.rand(BATCH, DIM, dtype=torch.float64) + 0.1
    log_h_0 = {
        "zero": None,
        "carried": h_0.log(),
        "learned": None if layer.initial_state is None else _log_g(layer.initial_state).expand(BATCH, -1),
    }[start]
    want = _log_scan(*_log_gates(layer, x), log_h_0)
    got, state = layer(x, LinearState(h_0) if start == "carried" else None)
    close(got, want, eps=1e4)
    close(state.h, want[:, -1], eps=1e4)


@pytest.mark.parametrize("cell", list(CELLS))
def test_log_space_gradients(cell: str) -> None:
    layer = CELLS[cell]()
    x = torch.randn(BATCH, TIME, DIM, dtype=torch.float64)
    parameters = list(layer.parameters())
    dy = torch.randn(BATCH, TIME, DIM, dtype=torch.float64)
    want = torch.autograd.grad(_log_scan(*_log_gates(layer, x), None), parameters, dy)
    for got, wanted in zip(torch.autograd.grad(layer(x)[0], parameters, dy), want, strict=True):
        close(got, wanted, eps=1e4)
