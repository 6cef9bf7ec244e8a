"""Derivatives of every order and kind: autograd, torch.func, forward mode."""

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.autograd import forward_ad, gradcheck, gradgradcheck
from torch.func import grad, hessian, jacfwd, jacrev, jvp, vjp, vmap

from recurrences import NATIVE, ROWS, Case, Drawn, compiled, draw, loop, plain
from tools import close

Function = Callable[..., Any]

FORMS = [plain, pytest.param(compiled, marks=NATIVE)]
CASE = Case(time=3, width=2, masks="both", batch=2)


def _drawn(name: str, case: Case = CASE) -> Drawn:
    """In double precision, away from the corner of the candidate, where the slope jumps."""
    drawn = draw(ROWS[name], case, torch.complex128 if "complex" in name else torch.float64)
    return drawn._replace(xs=tuple(torch.where(x.abs() < 0.05, 0.3, x) for x in drawn.xs))


def _function(form: Function, name: str, drawn: Drawn, reverse: bool = False) -> Function:
    """(inputs..., h_0) -> (y, h_n), the masks held."""
    return lambda *xs: form(ROWS[name], xs[:-1], xs[-1], drawn.reset, drawn.lengths, reverse)


def _arguments(drawn: Drawn) -> tuple[Tensor, ...]:
    return tuple(x.detach().requires_grad_() for x in (*drawn.xs, drawn.h_0))


# ----------------------------------------------------------------------------------------------
# Against finite differences. Forward mode too: what is not written there is silently zero.


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("name", ROWS)
@pytest.mark.parametrize("form", FORMS)
def test_gradcheck(form: Function, name: str, reverse: bool) -> None:
    drawn = _drawn(name)
    f = _function(form, name, drawn, reverse)
    assert gradcheck(f, _arguments(drawn), check_forward_ad=True)


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("name", ROWS)
@pytest.mark.parametrize("form", FORMS)
def test_gradgradcheck(form: Function, name: str, reverse: bool) -> None:
    drawn = _drawn(name)
    f = _function(form, name, drawn, reverse)
    assert gradgradcheck(f, _arguments(drawn), check_fwd_over_rev=True, fast_mode=True)


@pytest.mark.parametrize(
    "name", ["linear", "linear complex", "mingru positive", "minlstm tanh", "softmax decaying", "selective"]
)
@pytest.mark.parametrize("form", FORMS)
def test_third_order(form: Function, name: str) -> None:
    drawn = _drawn(name, Case(2, 1, "both", batch=1))
    f = _function(form, name, drawn)

    def first(*xs: Tensor) -> tuple[Tensor, ...]:
        y, h_n = f(*xs)
        size = y.abs().square().sum() + h_n.abs().square().sum()
        return torch.autograd.grad(size, xs, create_graph=True)

    assert gradgradcheck(first, _arguments(drawn))


@pytest.mark.parametrize("name", ["linear", "mingru positive", "minlstm positive", "softmax", "selective"])
def test_forward_mode_of_one_input_alone(name: str) -> None:
    drawn = _drawn(name)
    xs = (*drawn.xs, drawn.h_0)
    got, want = (_function(form, name, drawn) for form in (plain, loop))
    for i, x in enumerate(xs):
        with forward_ad.dual_level():
            dual = (*xs[:i], forward_ad.make_dual(x, torch.ones_like(x)), *xs[i + 1 :])
            for y, y_want in zip(got(*dual), want(*dual), strict=True):
                tangent = forward_ad.unpack_dual(y_want).tangent
                if tangent is not None:  # the last state sees nothing of what is only read with
                    close(forward_ad.unpack_dual(y).tangent, tangent)


# ----------------------------------------------------------------------------------------------
# torch.func, against the same transform of the step loop.


def _scalar(f: Function) -> Function:
    return lambda *xs: sum(y.square().sum() for y in f(*xs))


# Of f(gates, h_0) -> (y, h_n); MAPPED with one axis more on both.
TRANSFORMS: dict[str, Function] = {
    "grad": lambda f: grad(_scalar(f), argnums=(0, 1)),
    "vjp": lambda f: lambda *xs: vjp(f, *xs)[1](tuple(torch.ones_like(y) for y in f(*xs))),
    "jvp": lambda f: lambda *xs: jvp(f, xs, tuple(x.cos() for x in xs)),
    "jacrev": lambda f: jacrev(f, argnums=(0, 1)),
    "jacfwd": lambda f: jacfwd(f, argnums=(0, 1)),
    "hessian": lambda f: hessian(_scalar(f), argnums=(0, 1)),
    "jacrev of jacfwd": lambda f: jacrev(jacfwd(f)),
    "grad of grad": lambda f: grad(lambda *xs: grad(_scalar(f))(*xs).square().sum()),
}
MAPPED: dict[str, Function] = {
    "both": vmap,
    "gates alone": lambda f: lambda g, h: vmap(f, in_dims=(0, None))(g, h[0]),
    "state alone": lambda f: lambda g, h: vmap(f, in_dims=(None, 0))(g[0], h),
    "another axis": lambda f: lambda g, h: vmap(f, in_dims=(2, 1))(g.movedim(0, 2), h.movedim(0, 1)),
    "another axis out": lambda f: vmap(f, out_dims=(1, 2)),
    "twice": lambda f: vmap(vmap(f, in_dims=(None, 0)), in_dims=(0, None)),
    "of grad": lambda f: vmap(grad(_scalar(f), argnums=(0, 1))),
    "grad of": lambda f: grad(_scalar(vmap(f)), argnums=(0, 1)),
    "of jvp": lambda f: vmap(lambda *xs: jvp(f, xs, tuple(x.cos() for x in xs))),
    "in chunks": lambda f: vmap(f, chunk_size=2),
}
NAMES = ["linear", "mingru positive", "minlstm linear", "minlstm raw tanh", "softmax", "selective"]
NAMES += ["token mix"]


def _flat(tree: Any) -> list[Tensor]:
    return [x for part in tree for x in _flat(part)] if isinstance(tree, tuple) else [tree]


def _same(got: Function, want: Function, *xs: Tensor) -> None:
    for x, y in zip(_flat(got(*xs)), _flat(want(*xs)), strict=True):
        close(x, y)


def _of_gates(form: Function, name: str, drawn: Drawn, reverse: bool) -> Function:
    """f(gates, h_0); for an op of several inputs they lie side by side, and what has no time is held."""
    f, steps = _function(form, name, drawn, reverse), len(drawn.xs) - ROWS[name].vectors
    sizes = [x.shape[-1] for x in drawn.xs[:steps]]
    return lambda g, h: f(*g.split(sizes, -1), *drawn.xs[steps:], h)


def _together(drawn: Drawn) -> Tensor:
    """The inputs of every step side by side."""
    return torch.cat([x for x in drawn.xs if x.ndim == 3], -1)


@pytest.mark.parametrize("transform", TRANSFORMS)
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("form", FORMS)
def test_func(form: Function, name: str, transform: str) -> None:
    drawn = _drawn(name)
    make = partial(_of_gates, name=name, drawn=drawn, reverse=transform in ("jvp", "hessian", "vjp"))
    _same(
        TRANSFORMS[transform](make(form)),
        TRANSFORMS[transform](make(loop)),
        _together(drawn),
        drawn.h_0,
    )


@pytest.mark.parametrize("mapped", MAPPED)
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("form", FORMS)
def test_vmap(form: Function, name: str, mapped: str) -> None:
    drawn = _drawn(name)
    make = partial(_of_gates, name=name, drawn=drawn, reverse=mapped in ("of grad", "twice"))
    gates, h_0 = _together(drawn), drawn.h_0
    stacked = torch.stack([gates, -gates, gates.sin()]), torch.stack([h_0, h_0 + 1, -h_0])
    _same(MAPPED[mapped](make(form)), MAPPED[mapped](make(loop)), *stacked)


@pytest.mark.parametrize("name", NAMES)
def test_vmap_over_masks(name: str) -> None:
    drawn = _drawn(name)
    reset = torch.rand(4, 2, 3) < 0.4
    lengths = torch.randint(0, 4, (4, 2))

    def of_masks(form: Function) -> Function:
        return lambda r, n: _of_gates(form, name, drawn._replace(reset=r, lengths=n), True)(
            _together(drawn), drawn.h_0
        )

    _same(vmap(of_masks(plain)), vmap(of_masks(loop)), reset, lengths)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("form", FORMS)
def test_stacked_parameters(form: Function, name: str) -> None:
    drawn = _drawn(name)
    width = _together(drawn).shape[-1]
    x, weights = torch.randn(2, 3, 5).double(), torch.randn(4, width, 5).double()

    def ensemble(form: Function) -> Function:
        f = _of_gates(form, name, drawn, False)
        return vmap(grad(lambda w: _scalar(f)(x @ w.t(), drawn.h_0)))

    _same(ensemble(form), ensemble(loop), weights)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("form", FORMS)
def test_batched_cotangents(form: Function, name: str) -> None:
    drawn = _drawn(name)

    def rows(form: Function) -> tuple[Tensor, ...]:
        xs = _arguments(drawn)
        y, _ = _function(form, name, drawn)(*xs)
        seeds = torch.eye(y.numel(), dtype=y.dtype).view(-1, *y.shape)
        return torch.autograd.grad(y, xs, seeds, is_grads_batched=True)

    for got, want in zip(rows(form), rows(loop), strict=True):
        close(got, want)
