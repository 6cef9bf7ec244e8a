"""What state, reset and lengths mean, for every op with time in it: by cutting sequences up, not by masks."""

from collections.abc import Callable
from functools import partial
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor

from recurra import ops
from recurra.ops import native
from recurra.ops.causal_conv import causal_conv_step
from recurra.ops.diagonal import diagonal_step
from recurra.ops.gated import mingru_step, minlstm_step
from recurra.ops.linear import linear_step
from recurra.ops.selective import selective_step
from recurra.ops.softmax import softmax_step
from recurra.ops.token_mix import token_mix_open
from recurra.ops.token_shift import token_shift_step
from recurra.state import ConvState, LinearState, SelectiveState, ShiftState, SoftmaxState, select
from recurrences import NATIVE
from tools import close

BATCH, TIME, WIDTH = 3, 17, 6
WEIGHT, BIAS = torch.linspace(-1, 1, WIDTH * 4).cos().view(WIDTH, 4), torch.linspace(-1, 1, WIDTH)
# a, b, c of a diagonal state space of three states a channel.
MATRICES = [torch.polar(torch.full((WIDTH, 3), 0.9), torch.full((WIDTH, 3), k + 1.0)) for k in range(3)]

Op = Callable[..., tuple[Tensor, Any]]


def _average() -> SoftmaxState:
    return SoftmaxState(torch.randn(BATCH, 2), torch.randn(BATCH, 4), torch.rand(BATCH, 2) + 0.1)


def _averages(*vectors: Tensor) -> tuple[Op, Op, Callable[[], Any]]:
    """Two scores, each of two channels; decay and bonus if there are."""
    how = dict(zip(("decay", "bonus"), vectors, strict=False))
    return (
        lambda x, *rest, **more: ops.softmax(x[..., :2], x[..., 2:], *rest, **how, **more),
        lambda x, s: softmax_step(x[..., :2], x[..., 2:], s, **how),
        _average,
    )


def _selective(x: Tensor) -> dict[str, Tensor]:
    """Two channels of three states each."""
    parts = dict(zip(("x", "delta", "z"), x.chunk(3, -1), strict=True))
    fixed = {"A": -torch.arange(1.0, 7).view(2, 3), "D": BIAS[:2], "bias": BIAS[2:4]}
    return {**parts, "B": x[..., :3], "C": x[..., 3:], **fixed}


def _mixed(done: tuple[tuple[Tensor, ...], ConvState]) -> tuple[Tensor, ConvState]:
    """All mixes side by side."""
    return torch.cat(done[0], -1), done[1]


# (x [B, T, 6], state, reset, lengths) -> (y, state); its step; some state. Each reads x as it needs.
OPS: dict[str, tuple[Op, Op, Callable[[], Any]]] = {
    "linear": (
        lambda x, *rest, **how: ops.linear(*x.tanh().chunk(2, -1), *rest, **how),
        lambda x, s: linear_step(*x.tanh().chunk(2, -1), s),
        lambda: LinearState(torch.randn(BATCH, WIDTH // 2)),
    ),
    "mingru": (ops.mingru, mingru_step, lambda: LinearState(torch.randn(BATCH, WIDTH // 2))),
    "minlstm": (ops.minlstm, minlstm_step, lambda: LinearState(torch.randn(BATCH, WIDTH // 3))),
    "causal_conv": (
        lambda x, *rest: ops.causal_conv(x, WEIGHT, BIAS, *rest),
        partial(causal_conv_step, weight=WEIGHT, bias=BIAS),
        lambda: ConvState(torch.randn(BATCH, 3, WIDTH)),
    ),
    "causal_conv of one tap": (
        lambda x, *rest: ops.causal_conv(x, WEIGHT[:, :1], None, *rest),
        partial(causal_conv_step, weight=WEIGHT[:, :1]),
        lambda: ConvState(torch.randn(BATCH, 0, WIDTH)),
    ),
    "softmax": _averages(),
    "softmax decaying": _averages(torch.tensor([0.1, 2.0]), torch.tensor([-1.0, 0.5])),
    "diagonal": (
        lambda x, *rest: ops.diagonal(x, *MATRICES, BIAS, *rest),
        lambda x, s: diagonal_step(x, s, *MATRICES, BIAS),
        lambda: LinearState(torch.randn(BATCH, 3, 2, WIDTH)),
    ),
    "selective": (
        lambda x, *rest: ops.selective(
            **_selective(x), **dict(zip(("state", "reset", "lengths"), rest, strict=False))
        ),
        lambda x, s: selective_step(**_selective(x), state=s),
        lambda: SelectiveState(torch.randn(BATCH, 3, 2)),
    ),
    "token_mix": (
        lambda x, *rest: _mixed(ops.token_mix(x, (BIAS, *WEIGHT.unbind(1)[1:]), *rest)),
        lambda x, s: _mixed(token_mix_open(x, (BIAS, *WEIGHT.unbind(1)[1:]), s)),
        lambda: ConvState(torch.randn(BATCH, 1, WIDTH)),
    ),
    "token_mix of many": (
        lambda x, *rest: _mixed(ops.token_mix(x, (BIAS, *WEIGHT.unbind(1)), *rest)),
        lambda x, s: _mixed(token_mix_open(x, (BIAS, *WEIGHT.unbind(1)), s)),
        lambda: ConvState(torch.randn(BATCH, 1, WIDTH)),
    ),
    "token_shift": (ops.token_shift, token_shift_step, lambda: ShiftState(torch.randn(BATCH, WIDTH))),
}
REVERSIBLE = ["linear", "mingru", "minlstm", "softmax", "softmax decaying"]


@pytest.fixture(params=["plain", pytest.param("kernels", marks=NATIVE)], autouse=True)
def form(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param == "plain":
        monkeypatch.setattr(native, "takes", lambda *_: False)


@pytest.fixture(params=OPS)
def named(request: pytest.FixtureRequest) -> tuple[Op, Op, Any]:
    op, step, state = OPS[request.param]
    return op, step, state()


def _zeros(state: Any) -> Any:
    return type(state)(*(torch.zeros_like(x) for x in state))


def _same(got: tuple[Tensor, Any], want: tuple[Tensor, Any]) -> None:
    close(got[0], want[0])
    assert type(got[1]) is type(want[1])
    for x, y in zip(got[1], want[1], strict=True):
        close(x, y)


@pytest.mark.parametrize("at", [0, 1, 2, 8, TIME - 1, TIME])
def test_whole_is_in_chunks(named: tuple[Op, Op, Any], at: int) -> None:
    op, _, state = named
    x = torch.randn(BATCH, TIME, WIDTH)
    first, middle = op(x[:, :at], state)
    second, end = op(x[:, at:], middle)
    _same((torch.cat([first, second], 1), end), op(x, state))


def test_whole_is_step_by_step(named: tuple[Op, Op, Any]) -> None:
    op, step, state = named
    x, want = torch.randn(BATCH, TIME, WIDTH), None
    want, ys = op(x, state), []
    for x_t in x.unbind(1):
        y, state = step(x_t, state)
        ys.append(y)
    _same((torch.stack(ys, 1), state), want)


def test_no_state_is_zeros(named: tuple[Op, Op, Any]) -> None:
    op, _, state = named
    x = torch.randn(BATCH, TIME, WIDTH)
    _same(op(x), op(x, _zeros(state)))


def _cut_up(op: Op, x: Tensor, state: Any, reset: Tensor, **how: Any) -> tuple[Tensor, Any]:
    """One row, [1, T, C], its segments one after the other, in the order of time."""
    edges = [0, *(int(t) for t in reset.nonzero().flatten() if t), x.shape[1]]
    pieces = [x[:, i:j] for i, j in pairwise(edges)]
    begins = [_zeros(state) if i or reset[0] else state for i in range(len(pieces))]
    if how:  # reversed: the last segment is the first to be read
        begins = [_zeros(state)] * (len(pieces) - 1) + [state]
    done = [op(piece, begin, **how) for piece, begin in zip(pieces, begins, strict=True)]
    return torch.cat([y for y, _ in done], 1), done[0 if how else -1][1]


def _reset() -> Tensor:
    reset = torch.rand(BATCH, TIME) < 0.3
    reset[0, 0], reset[1, 0], reset[1, -1], reset[2] = True, False, True, False
    return reset


def test_reset_is_a_fresh_sequence(named: tuple[Op, Op, Any]) -> None:
    op, _, state = named
    x, reset = torch.randn(BATCH, TIME, WIDTH), _reset()
    y, end = op(x, state, reset)
    for b in range(BATCH):
        row = slice(b, b + 1)
        _same((y[row], select(end, row)), _cut_up(op, x[row], select(state, row), reset[b]))


@pytest.mark.parametrize("name", REVERSIBLE)
def test_reset_lies_between_the_same_steps_reversed(name: str) -> None:
    op, _, make = OPS[name]
    x, reset, state = torch.randn(BATCH, TIME, WIDTH), _reset(), make()
    y, end = op(x, state, reset, reverse=True)
    for b in range(BATCH):
        row = slice(b, b + 1)
        want = _cut_up(op, x[row], select(state, row), reset[b], reverse=True)
        _same((y[row], select(end, row)), want)


@pytest.mark.parametrize("name", REVERSIBLE)
def test_reversed_is_flipped(name: str) -> None:
    op, _, make = OPS[name]
    x, state = torch.randn(BATCH, TIME, WIDTH), make()
    y, end = op(x.flip(1), state)
    _same(op(x, state, reverse=True), (y.flip(1), end))


def _lengths_are_rows_alone(op: Op, state: Any, **how: Any) -> None:
    x, reset, lengths = torch.randn(BATCH, TIME, WIDTH), _reset(), torch.tensor([TIME, 5, 0])
    y, end = op(x, state, reset, lengths, **how)
    for b, n in enumerate(lengths.tolist()):
        row = slice(b, b + 1)
        want = op(x[row, :n], select(state, row), reset[row, :n], **how)
        _same((y[row, :n], select(end, row)), want)
        assert not y[row, n:].any()


def test_lengths_are_rows_alone(named: tuple[Op, Op, Any]) -> None:
    _lengths_are_rows_alone(named[0], named[2])


@pytest.mark.parametrize("name", REVERSIBLE)
def test_lengths_are_rows_alone_reversed(name: str) -> None:
    _lengths_are_rows_alone(OPS[name][0], OPS[name][2](), reverse=True)


@pytest.mark.parametrize("dtype", [torch.int32, torch.int64, torch.uint8])
def test_lengths_of_any_integer_dtype(named: tuple[Op, Op, Any], dtype: torch.dtype) -> None:
    op, _, state = named
    x, lengths = torch.randn(BATCH, TIME, WIDTH), torch.tensor([TIME, 5, 0])
    _same(op(x, state, None, lengths.to(dtype)), op(x, state, None, lengths))


# ----------------------------------------------------------------------------------------------
# What must not matter.


def _gradient(op: Op, x: Tensor, *rest: Any) -> tuple[Tensor, Any, Tensor]:
    x = x.detach().requires_grad_()
    y, state = op(x, *rest)
    (dx,) = torch.autograd.grad(y.sum() + sum(s.real.sum() for s in state), x)
    return y, state, dx


@pytest.mark.parametrize("rubbish", [float("nan"), float("inf"), 1e30])
def test_padding_is_never_read(named: tuple[Op, Op, Any], rubbish: float) -> None:
    op, _, state = named
    x, reset, lengths = torch.randn(BATCH, TIME, WIDTH), _reset(), torch.tensor([TIME, 5, 0])
    dirty = x.clone()
    dirty[1, 5:], dirty[2] = rubbish, rubbish
    (y, end, dx), want = _gradient(op, dirty, state, reset, lengths), _gradient(op, x, state, reset, lengths)
    _same((y, end), want[:2])
    close(dx[0], want[2][0])
    close(dx[1, :5], want[2][1, :5])


def test_what_a_reset_forgets_may_be_anything(named: tuple[Op, Op, Any]) -> None:
    op, _, state = named
    x, reset = torch.randn(BATCH, TIME, WIDTH), torch.zeros(BATCH, TIME, dtype=torch.bool)
    reset[:, 6] = True
    x[:, 3:6] = float("nan")
    y, end, dx = _gradient(op, x, state, reset)
    clean = _gradient(op, x[:, 6:])
    _same((y[:, 6:], end), clean[:2])
    close(dx[:, 6:], clean[2])


def test_the_future_and_other_rows_stay_away(named: tuple[Op, Op, Any]) -> None:
    op, _, state = named
    x = torch.randn(BATCH, TIME, WIDTH)
    y, _ = op(x, state)
    for t, b in ((5, 1), (TIME - 1, 0)):
        other = x.clone()
        other[b, t] += 1
        changed = (op(other, state)[0] != y).any(-1)
        assert not changed[:, :t].any()
        assert not changed[torch.arange(BATCH) != b].any()


def _pulled(op: Op, x: Tensor, state: Any, reset: Tensor | None = None) -> tuple[Tensor, Any, Tensor, Any]:
    """y and the last state, and the gradients of x and of the first one."""
    x, first = x.detach().requires_grad_(), type(state)(*(s.detach().requires_grad_() for s in state))
    y, end = op(x, first, reset)
    loss = y.sin().sum() + sum(s.sin().sum() for s in end)
    dx, *dfirst = torch.autograd.grad(loss, [x, *first], materialize_grads=True)
    return y, end, dx, type(state)(*dfirst)


def test_no_nan_crosses_a_reset(named: tuple[Op, Op, Any]) -> None:
    """Neither that of a state which step 0 forgets nor, backwards, that of a step behind."""
    op, _, state = named
    x, reset = torch.randn(BATCH, TIME, WIDTH), torch.zeros(BATCH, TIME, dtype=torch.bool)
    reset[:, 0] = reset[:, 6] = True
    bad, spoilt = x.clone(), type(state)(*(torch.full_like(s, torch.nan) for s in state))
    bad[:, 6:] = torch.nan
    (y, _, dx, dstate), want = _pulled(op, bad, spoilt, reset), _pulled(op, x, state, reset)
    close(y[:, :6], want[0][:, :6])
    close(dx[:, :6], want[2][:, :6])
    assert not any(s.any() for s in dstate)


def test_how_a_state_lies_in_memory(named: tuple[Op, Op, Any]) -> None:
    op, _, state = named
    x, turned = (
        torch.randn(BATCH, TIME, WIDTH),
        type(state)(*(s.movedim(0, -1).contiguous().movedim(-1, 0) for s in state)),
    )
    got, want = _pulled(op, x, turned), _pulled(op, x, state)
    _same(got[:2], want[:2])
    _same(got[2:], want[2:])


def test_inputs_are_left_alone(named: tuple[Op, Op, Any]) -> None:
    op, _, state = named
    x, reset, lengths = torch.randn(BATCH, TIME, WIDTH), _reset(), torch.tensor([TIME, 5, 0])
    before = [v.clone() for v in (x, reset, lengths, *state)]
    _gradient(op, x, state, reset, lengths)
    for v, w in zip((x, reset, lengths, *state), before, strict=True):
        assert v.equal(w)
