"""The causal convolution is torch's conv1d with zeros on the left; the token shift is one of its kind."""

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.autograd import gradcheck, gradgradcheck
from torch.func import grad, hessian, jacfwd, jacrev, jvp, vmap
from torch.nn import functional as F

from recurra import ops
from recurra.ops import native
from recurra.ops.causal_conv import causal_conv_step
from recurra.ops.loop import unroll
from recurra.state import ConvState, ShiftState
from recurrences import LAYOUTS, MASKS, NATIVE, Case, draw_masks
from tools import close

REAL = (torch.float32, torch.float64, torch.bfloat16)
TAPS = (1, 2, 3, 4, 7, 16, 17)


@pytest.fixture(params=["plain", pytest.param("kernels", marks=NATIVE)], autouse=True)
def form(request: pytest.FixtureRequest) -> Any:
    with pytest.MonkeyPatch.context() as patch:
        if request.param == "plain":
            patch.setattr(native, "takes", lambda *_: False)
        yield request.param


def conv1d(x: Tensor, weight: Tensor, bias: Tensor | None, state: Tensor) -> tuple[Tensor, Tensor]:
    """The oracle: the state in front, then torch's own convolution."""
    seen = torch.cat([state, x], 1)
    y = F.conv1d(seen.mT, weight[:, None], bias, groups=weight.shape[0]).mT
    return y, seen[:, x.shape[1] :]


def _gradients(y: Tensor, end: Tensor, inputs: list[Tensor], seeds: tuple[Tensor, Tensor]) -> list[Tensor]:
    got = torch.autograd.grad((y, end), inputs, (seeds[0].to(y.dtype), seeds[1].to(end.dtype)))
    return [y, end, *got]


@pytest.mark.parametrize("taps", TAPS)
@pytest.mark.parametrize(("time", "width"), [(1, 17), (2, 3), (7, 64), (65, 1), (257, 130)])
@pytest.mark.parametrize("dtype", REAL)
def test_conv1d(dtype: torch.dtype, time: int, width: int, taps: int) -> None:
    x, weight, bias = torch.randn(3, time, width), torch.randn(width, taps), torch.randn(width)
    state = torch.randn(3, taps - 1, width, dtype=torch.promote_types(dtype, torch.float32)).requires_grad_()
    leaves = [v.to(dtype).requires_grad_() for v in (x, weight, bias)]
    seeds = torch.randn_like(x).to(dtype), torch.randn_like(state)
    y, end = ops.causal_conv(*leaves, ConvState(state))
    got = _gradients(y, end.x, [*leaves, state], seeds)
    wide = [v.detach().double().requires_grad_() for v in (*leaves, state)]
    want = _gradients(*conv1d(*wide), wide, seeds)
    for g, w, like in zip(got, want, [y, state, *leaves, state], strict=True):
        assert g.dtype == like.dtype
        close(g, w)


@settings(max_examples=200)
@given(
    st.builds(
        Case,
        time=st.integers(0, 12),
        width=st.integers(1, 40),
        masks=st.sampled_from(MASKS),
        batch=st.integers(0, 3),
    ),
    st.sampled_from(TAPS),
    st.sampled_from(REAL),
    st.sampled_from(list(LAYOUTS)),
    st.booleans(),
)
def test_step_loop(case: Case, taps: int, dtype: torch.dtype, layout: str, biased: bool) -> None:
    torch.manual_seed(0)
    batch, time, width = case.batch, case.time, case.width
    x = LAYOUTS[layout](torch.randn(batch, time, width).to(dtype)).requires_grad_()
    dy = LAYOUTS[layout](torch.randn(batch, time, width).to(dtype))
    weight = torch.randn(taps, width).to(dtype).t().requires_grad_()
    bias = torch.randn(width).to(dtype).requires_grad_() if biased else None
    state = torch.randn(batch, width, taps - 1).to(torch.promote_types(dtype, torch.float32)).mT
    leaves = [x, weight, state.requires_grad_(), *([bias] if bias is not None else [])]
    reset, lengths = draw_masks(case, torch.Generator().manual_seed(0))

    y, end = ops.causal_conv(x, weight, bias, ConvState(state), reset, lengths)
    got = _gradients(y, end.x, leaves, (dy, state.detach() + 1))
    wide = [v.detach().double().requires_grad_() for v in leaves]
    if not time:
        assert y.shape == x.shape
        close(end.x, state)
        return

    def step(x: Tensor, state: ConvState) -> tuple[Tensor, ConvState]:
        return causal_conv_step(x, state, wide[1], wide[3] if biased else None)

    y, end = unroll(step, (wide[0],), ConvState(wide[2]), reset, lengths)
    want = torch.autograd.grad((y, end.x), wide, (dy.double(), state.double() + 1), materialize_grads=True)
    for g, w in zip(got, [y, end.x, *want], strict=True):
        close(g, w)


# ----------------------------------------------------------------------------------------------
# Derivatives. f(x, weight, bias, state), the masks held.


def _arguments(taps: int = 3) -> tuple[Tensor, ...]:
    shapes = ((2, 4, 2), (2, taps), (2,), (2, taps - 1, 2))
    return tuple(torch.randn(shape, dtype=torch.float64, requires_grad=True) for shape in shapes)


RESET = torch.tensor([[False, False, True, False], [False, True, False, False]])
LENGTHS = torch.tensor([4, 3])


def _conv(x: Tensor, weight: Tensor, bias: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
    y, end = ops.causal_conv(x, weight, bias, ConvState(state), RESET, LENGTHS)
    return y, end.x


def _loop(x: Tensor, weight: Tensor, bias: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
    def step(x: Tensor, state: ConvState) -> tuple[Tensor, ConvState]:
        return causal_conv_step(x, state, weight, bias)

    y, end = unroll(step, (x,), ConvState(state), RESET, LENGTHS)
    return y, end.x


@pytest.mark.parametrize("taps", [1, 3])
def test_gradcheck(taps: int) -> None:
    assert gradcheck(_conv, _arguments(taps), check_forward_ad=True)
    assert gradgradcheck(_conv, _arguments(taps), check_fwd_over_rev=True, fast_mode=True)


def _scalar(f: Any) -> Any:
    return lambda *xs: sum(y.pow(3).sum() for y in f(*xs))


TRANSFORMS: dict[str, Any] = {
    "grad": lambda f: grad(_scalar(f), argnums=(0, 1, 2, 3)),
    "jvp": lambda f: lambda *xs: jvp(f, xs, tuple(x.cos() for x in xs)),
    "jacrev": lambda f: jacrev(f, argnums=(0, 1, 2, 3)),
    "jacfwd": lambda f: jacfwd(f, argnums=(0, 1, 2, 3)),
    "hessian": lambda f: hessian(_scalar(f), argnums=1),
    "vmap over x": lambda f: lambda x, *rest: vmap(lambda x: f(x, *rest))(torch.stack([x, -x])),
    "vmap over the rest": lambda f: (
        lambda x, w, b, s: vmap(f, in_dims=(None, 1, None, 0))(
            x, torch.stack([w, -w], 1), b, torch.stack([s, s + 1])
        )
    ),
    "vmap of grad": lambda f: (
        lambda x, *rest: vmap(lambda x: grad(_scalar(f), argnums=1)(x, *rest))(torch.stack([x, -x]))
    ),
}


def _flat(tree: Any) -> list[Tensor]:
    return [x for part in tree for x in _flat(part)] if isinstance(tree, tuple) else [tree]


@pytest.mark.parametrize("name", TRANSFORMS)
def test_func(name: str) -> None:
    arguments = [x.detach() for x in _arguments()]
    got, want = (_flat(TRANSFORMS[name](f)(*arguments)) for f in (_conv, _loop))
    for g, w in zip(got, want, strict=True):
        close(g, w)


# ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", [*REAL, torch.int64, torch.complex64])
def test_token_shift(dtype: torch.dtype, layout: str) -> None:
    x = LAYOUTS[layout](torch.randn(3, 7, 5).to(dtype))
    first = torch.randn(3, 5).to(dtype)
    y, end = ops.token_shift(x, ShiftState(first))
    assert y.dtype == dtype
    assert y[:, 1:].equal(x[:, :-1])
    assert y[:, 0].equal(first)
    assert end.x.equal(x[:, -1])


@pytest.mark.parametrize("masks", MASKS)
@pytest.mark.parametrize(("batch", "time"), [(0, 4), (3, 0), (2, 1), (3, 6)])
def test_token_shift_is_a_convolution(batch: int, time: int, masks: str) -> None:
    x = torch.randn(batch, time, 3, dtype=torch.float64, requires_grad=True)
    first = torch.randn(batch, 3, dtype=torch.float64, requires_grad=True)
    rest = draw_masks(Case(time, 3, masks, batch=batch), torch.Generator().manual_seed(1))
    y, end = ops.token_shift(x, ShiftState(first), *rest)
    weight = torch.tensor([[1.0, 0.0]] * 3).double()
    y_want, end_want = ops.causal_conv(x, weight, None, ConvState(first[:, None]), *rest)
    close(y, y_want)
    close(end.x, end_want.x[:, 0])
    seeds = torch.randn_like(y), torch.randn_like(end.x)
    got = torch.autograd.grad((y, end.x), (x, first), seeds, materialize_grads=True)
    want = torch.autograd.grad((y_want, end_want.x[:, 0]), (x, first), seeds)
    for g, w in zip(got, want, strict=True):
        close(g, w)
