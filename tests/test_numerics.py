"""The errors that the README publishes: long sequences, gates that saturate, inputs of any size."""

import math
import os
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from recurra import ops
from recurra.ops import native
from recurra.ops.gated import CANDIDATES, mingru_gates, minlstm_gates
from recurra.state import LinearState
from tools import close, rms

EPS = torch.finfo(torch.float32).eps
# bf16 in and out: every output is rounded once, and nothing else is; relative RMS.
BF16 = 2 * torch.finfo(torch.bfloat16).eps

Cell = Callable[..., tuple[Tensor, LinearState]]
CELLS: dict[str, tuple[int, Cell, Callable[..., tuple[Tensor, Tensor]]]] = {
    "mingru": (2, ops.mingru, mingru_gates),
    "minlstm": (3, ops.minlstm, minlstm_gates),
}


@pytest.fixture(params=["kernels", "plain"], autouse=True)
def form(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    if request.param == "plain":
        monkeypatch.setattr(native, "takes", lambda *_: False)
    elif os.environ.get("RECURRA_ISA") == "none":
        pytest.skip("RECURRA_ISA=none")
    return str(request.param)


def truth(a: Tensor, b: Tensor, h: Tensor) -> Tensor:
    """The step loop, without the graph that a million steps would leave behind."""
    out = torch.empty_like(b)
    for t in range(b.shape[1]):
        h = torch.addcmul(b[:, t], a[:, t], h, out=out[:, t])
    return out


def drawn(cell: str, batch: int, time: int, width: int, dtype: torch.dtype = torch.float32) -> Any:
    parts, op, gates = CELLS[cell]
    x, h_0 = torch.randn(batch, time, parts * width), torch.randn(batch, width)
    x = x.to(dtype)
    return x, h_0, op, gates(x.double())


@pytest.mark.parametrize("cell", CELLS)
def test_fp32_over_4096_steps(cell: str) -> None:
    x, h_0, op, (a, b) = drawn(cell, 4, 4096, 16)
    y, _ = op(x, LinearState(h_0))
    close(y, truth(a, b, h_0.double()), eps=64)


@pytest.mark.slow
@pytest.mark.parametrize("cell", CELLS)
def test_fp32_over_a_million_steps(cell: str) -> None:
    x, h_0, op, (a, b) = drawn(cell, 1, 1_000_000, 8)
    y, state = op(x, LinearState(h_0))
    want = truth(a, b, h_0.double())
    assert rms(y, want) <= 2e-5
    assert rms(state.h, want[:, -1]) <= 2e-5


@pytest.mark.parametrize("cell", CELLS)
def test_bf16(cell: str) -> None:
    x, h_0, op, (a, b) = drawn(cell, 4, 4096, 16, torch.bfloat16)
    y, state = op(x, LinearState(h_0))
    want = truth(a, b, h_0.double())
    assert rms(y, want) <= BF16
    close(state.h, want[:, -1])  # the state stays in fp32


@pytest.mark.parametrize("shut", [7.0, 9.0])
@pytest.mark.parametrize("cell", CELLS)
def test_gates_that_hardly_open(form: str, cell: str, shut: float) -> None:
    """About 1e-3 and 1e-4: at many a step the state moves by less than its own rounding."""
    parts, op, gates = CELLS[cell]
    x, h_0 = torch.randn(2, 4096, parts * 16), torch.randn(2, 16)
    x[..., 16:32] += -shut if cell == "mingru" else shut
    y, _ = op(x, LinearState(h_0))
    # The plain form rounds 1 - z, and keeps that error for the 1/z steps that it remembers.
    allowed = 256 if form == "plain" else 64
    error = rms(y, truth(*gates(x.double()), h_0.double()))
    assert error <= allowed * EPS


@pytest.mark.parametrize("time", [4096, 100_000])
def test_a_sum_is_no_worse_than_a_sum(time: int) -> None:
    b = torch.randn(1, time, 16)
    y, _ = ops.linear(torch.ones_like(b), b)
    want = b.double().cumsum(1)
    assert rms(y, want) <= 1.1 * rms(_sequential_sum(b), want)


def _sequential_sum(b: Tensor) -> Tensor:
    out, h = torch.empty_like(b), torch.zeros_like(b[:, 0])
    for t in range(b.shape[1]):
        h = torch.add(h, b[:, t], out=out[:, t])
    return out


@pytest.mark.parametrize("time", [4096, 100_000])
def test_a_sum_of_one_sign(time: int) -> None:
    """The harder one: the rounding errors of a growing sum all count."""
    b = torch.rand(1, time, 16)
    y, _ = ops.linear(torch.ones_like(b), b)
    want = b.double().cumsum(1)
    assert rms(y, want) <= 1.1 * rms(_sequential_sum(b), want)


# ----------------------------------------------------------------------------------------------
# Extremes: each value for itself, not their mean square, so that a small one counts as well.

LEVELS = (-2e4, -1e4, -100.0, -30.0, -1.0, 0.0, 1.0, 30.0, 100.0, 1e4, 2e4)


def extremes(parts: int) -> Tensor:
    """[B, T, parts * D]: every gate at every level against every other, in a random order of time."""
    grid = torch.cartesian_prod(*[torch.tensor(LEVELS)] * parts)
    rows = [grid[torch.randperm(len(grid))] for _ in range(16)]
    return torch.stack(rows).reshape(4, 4, len(grid), parts).transpose(1, 2).transpose(2, 3).flatten(2)


def assert_each(got: Tensor, want: Tensor, scale: Tensor) -> None:
    """Every element within 64 eps of fp32 of `scale`."""
    excess = (got.double() - want).abs() / (64 * EPS * scale)
    worst = int(excess.nan_to_num(torch.inf).argmax())
    assert excess.flatten()[worst] <= 1, f"{got.flatten()[worst]} instead of {want.flatten()[worst]}"


@pytest.mark.parametrize("start", [0.0, 1.0, -1.0, 1e4, -1e20, 1e30])
@pytest.mark.parametrize("candidate", CANDIDATES)
@pytest.mark.parametrize(
    ("cell", "how"), [("mingru", {}), ("minlstm", {"normalized": True}), ("minlstm", {"normalized": False})]
)
def test_extremes(cell: str, how: dict[str, Any], candidate: str, start: float) -> None:
    parts, op, gates = CELLS[cell]
    how = {"candidate": candidate, **how}
    x = extremes(parts).requires_grad_()
    h_0 = torch.full((4, 4), start, requires_grad=True)
    y, state = op(x, LinearState(h_0), **how)
    a, b = gates(x.detach().double(), **how)
    want = truth(a, b, h_0.detach().double())
    # What rounding may leave: all that was added up, each with what remains of it; and gates that have
    # no number in fp32 any more.
    floor = 1e-31 * max(abs(start), LEVELS[-1])
    scale = truth(a, b.abs() + floor, h_0.detach().double().abs())
    assert_each(y.detach(), want, scale)
    assert_each(state.h.detach(), want[:, -1], scale[:, -1])
    dx, dh_0 = torch.autograd.grad((y.sum() + state.h.sum()) / y.numel(), (x, h_0))
    assert dx.isfinite().all()
    assert dh_0.isfinite().all()


@pytest.mark.parametrize("phi", [-1e4, -2e4, 1e4])
@pytest.mark.parametrize("iota", [-1e4, -2e4, 1e4])
def test_both_gates_of_minlstm_closed(phi: float, iota: float) -> None:
    """f/(f+i) is decided by the difference, however far both are closed."""
    gates = torch.tensor([3.0, phi, iota]).expand(1, 1, 3)
    y, _ = ops.minlstm(gates, LinearState(torch.full((1, 1), -7.0)), candidate="linear")
    opened = max(min(phi, 0.0), -1e6) - max(min(iota, 0.0), -1e6)
    forget = 1 / (1 + math.exp(-max(min(opened, 50.0), -50.0)))
    assert float(y) == pytest.approx(forget * -7.0 + (1 - forget) * 3.0, rel=1e-6)


@pytest.mark.parametrize("cell", CELLS)
def test_forget_all_forgets_what_is_huge(cell: str) -> None:
    """An open gate lets go of any state: nothing of its size stays, and nothing of its rounding."""
    parts, op, _ = CELLS[cell]
    gates = torch.full((1, 1, parts), -1e4)
    gates[..., 0], gates[..., -1] = 2.0, 1e4
    y, state = op(gates, LinearState(torch.full((1, 1), 1e20)))
    assert float(y.detach()) == 2.5
    assert float(state.h) == 2.5


def _scores(time: int) -> Tensor:
    """Every level in a random order: a new max takes over, and the old one is forgotten."""
    levels = torch.tensor(LEVELS)
    return levels[torch.randint(len(levels), (4, time, 16))] + torch.randn(4, time, 16)


def test_scores_of_any_size() -> None:
    s, v = _scores(200).requires_grad_(), torch.randn(4, 200, 64, requires_grad=True)
    y, state = ops.softmax(s, v)
    logits, wide = s.detach().double().mT, v.detach().double().unflatten(2, (16, 4)).transpose(1, 2)
    weights = (
        logits[:, :, None]
        .expand(-1, -1, 200, -1)
        .masked_fill(~torch.ones(200, 200).tril().bool(), -torch.inf)
    )
    close(y, (weights.softmax(-1) @ wide).transpose(1, 2).flatten(2))
    grads = torch.autograd.grad(y.square().sum() + state.numerator.sum() + state.denominator.sum(), (s, v))
    assert all(x.isfinite().all() for x in (*state, *grads))


@pytest.mark.parametrize("strength", [0.0, 1e-3, 30.0, 1e4])
def test_scores_of_any_size_that_decay(strength: float) -> None:
    s, v = _scores(100).requires_grad_(), torch.randn(4, 100, 16, requires_grad=True)
    decay, bonus = torch.full((16,), strength, requires_grad=True), torch.randn(16, requires_grad=True)
    y, state = ops.softmax(s, v, decay=decay, bonus=bonus)
    assert (y.detach().abs() <= v.detach().abs().amax(1, keepdim=True) * (1 + 4 * EPS)).all()
    grads = torch.autograd.grad(y.square().sum() + sum(x.sum() for x in state), (s, v, decay, bonus))
    assert all(x.isfinite().all() for x in (y, *state, *grads))
