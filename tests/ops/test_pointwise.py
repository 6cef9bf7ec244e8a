"""What happens at each position by itself: the norm of a residual sum, the activation, a sum of products."""

import math
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor
from torch.autograd import gradcheck, gradgradcheck
from torch.func import grad, jvp, vmap
from torch.library import opcheck
from torch.nn import functional as F

from recurra import ops
from recurra.ops import native
from recurra.ops.activation import ACTIVATIONS
from recurra.ops.activation import OP as ACTIVATION
from recurra.ops.norm import EPS, LAYER_EPS, head_norm
from recurra.ops.norm import OP as NORM
from recurra.ops.project import OP as PROJECT
from recurrences import NATIVE
from tools import close

REAL = (torch.float32, torch.float64, torch.bfloat16)


class Row(NamedTuple):
    """An op, torch's own for it, and the shapes of its inputs for positions [...] of a width."""

    op: Callable[..., Any]
    oracle: Callable[..., Any]
    shapes: Callable[[tuple[int, ...], int], list[tuple[int, ...]]]


def _norm(x: Tensor, weight: Tensor) -> Tensor:
    return F.rms_norm(x, weight.shape, weight, EPS)


def _added_norm(x: Tensor, added: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    return x + added, _norm(x + added, weight)


def _layer_norm(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    return F.layer_norm(x, weight.shape, weight, bias, LAYER_EPS)


def _head_norm(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    rows = x.reshape(-1, weight.numel())
    return F.group_norm(rows, len(weight), weight.flatten(), bias.flatten(), LAYER_EPS).view(x.shape)


def _added_layer_norm(x: Tensor, added: Tensor, weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
    return x + added, _layer_norm(x + added, weight, bias)


def _gate(f: Callable[[Tensor], Tensor]) -> Callable[[Tensor, Tensor], Tensor]:
    return lambda x, factor: f(x) * factor


def _added_gate(x: Tensor, factor: Tensor, added: Tensor) -> Tensor:
    return x.sigmoid() * factor + added


def _one(at: tuple[int, ...], width: int) -> list[tuple[int, ...]]:
    return [(*at, width)]


def _two(at: tuple[int, ...], width: int) -> list[tuple[int, ...]]:
    return [(*at, width)] * 2


def _centred(at: tuple[int, ...], width: int) -> list[tuple[int, ...]]:
    width = max(width, 4)  # of two numbers their sign alone is left, and of its slope nothing but roundings
    return [(*at, width)] * 2 + [(width,)] * 2


def _of_heads(at: tuple[int, ...], width: int) -> list[tuple[int, ...]]:
    return [(*at, 3, max(width, 4))] + [(3, max(width, 4))] * 2


ROWS = {
    **{kind: Row(partial(ops.activate, kind), f, _one) for kind, f in ACTIVATIONS.items()},
    **{f"{kind} gate": Row(partial(ops.activate, kind), _gate(f), _two) for kind, f in ACTIVATIONS.items()},
    "soft cap": Row(lambda x: ops.soft_cap(x, 1.5), lambda x: 1.5 * torch.tanh(x / 1.5), _one),
    "added gate": Row(partial(ops.activate, "sigmoid"), _added_gate, lambda at, width: [(*at, width)] * 3),
    "norm": Row(ops.rms_norm, _norm, lambda at, width: [(*at, width), (width,)]),
    "added norm": Row(ops.add_rms_norm, _added_norm, lambda at, width: [(*at, width)] * 2 + [(width,)]),
    "layer norm": Row(
        lambda x, *affine: ops.add_layer_norm(x, None, *affine)[1],
        _layer_norm,
        lambda at, width: _centred(at, width)[1:],
    ),
    "added layer norm": Row(ops.add_layer_norm, _added_layer_norm, _centred),
    "head norm": Row(head_norm, _head_norm, _of_heads),
    "added product": Row(
        ops.project,
        lambda x, weight, bias, added: F.linear(x, weight, bias) + added,
        lambda at, width: [(*at, width), (5, width), (5,), (*at, 5)],
    ),
}


@pytest.fixture(params=["plain", pytest.param("kernels", marks=NATIVE)], autouse=True)
def form(request: pytest.FixtureRequest) -> Iterator[str]:
    with pytest.MonkeyPatch.context() as patch:
        if request.param == "plain":
            patch.setattr(native, "takes", lambda *_: False)
        yield request.param


def _tuple(y: Any) -> tuple[Tensor, ...]:
    return y if isinstance(y, tuple) else (y,)


def _results(f: Callable[..., Any], inputs: list[Tensor], seeds: list[Tensor]) -> list[Tensor]:
    y = _tuple(f(*inputs))
    pulled = [seed.to(out.dtype) for out, seed in zip(y, seeds, strict=False)]
    return [*y, *torch.autograd.grad(y, inputs, pulled)]


def _turned(x: Tensor) -> Tensor:
    """The same numbers, the last axis not side by side."""
    return torch.stack([x, x], -1)[..., 0]


@pytest.mark.parametrize("dtype", REAL)
@pytest.mark.parametrize("width", [2, 3, 16, 17, 130, 384])
@pytest.mark.parametrize("at", [(), (1,), (2, 70), (0, 3)], ids=str)
@pytest.mark.parametrize("name", ROWS)
def test_torch(name: str, at: tuple[int, ...], width: int, dtype: torch.dtype) -> None:
    row, layout = ROWS[name], _turned if width == 17 else Tensor.contiguous
    inputs = [layout(torch.randn(s).to(dtype)).requires_grad_() for s in row.shapes(at, width)]
    wide = [x.detach().double().requires_grad_() for x in inputs]
    seeds = [torch.randn_like(y) for y in _tuple(row.oracle(*wide))]
    want = _results(row.oracle, wide, seeds)
    for got, truth in zip(_results(row.op, inputs, seeds), want, strict=True):
        assert got.dtype == dtype
        close(got, truth)
    with torch.no_grad():  # the shorter way
        for got, truth in zip(_tuple(row.op(*inputs)), want, strict=False):
            close(got, truth)


@pytest.mark.parametrize("name", ROWS)
def test_derivatives(name: str) -> None:
    inputs = [torch.randn(s, dtype=torch.float64, requires_grad=True) for s in ROWS[name].shapes((2, 3), 4)]
    assert gradcheck(ROWS[name].op, inputs, check_forward_ad=True)
    assert gradgradcheck(ROWS[name].op, inputs, check_fwd_over_rev=True)


@pytest.mark.parametrize("name", ROWS)
def test_func(name: str) -> None:
    row = ROWS[name]
    inputs = [torch.randn(3, *s) for s in row.shapes((2,), 4)]

    def size(f: Callable[..., Any]) -> Callable[..., Tensor]:
        return lambda *x: sum(y.pow(3).sum() for y in _tuple(f(*x)))

    got, want = (vmap(grad(size(f), argnums=len(inputs) - 1))(*inputs) for f in (row.op, row.oracle))
    close(got, want)
    tangents = tuple(torch.randn_like(x) for x in inputs)
    got, want = (jvp(size(f), tuple(inputs), tangents)[1] for f in (vmap(row.op), vmap(row.oracle)))
    close(got, want)


@pytest.mark.parametrize("name", ROWS)
def test_compile(name: str) -> None:
    inputs = [torch.randn(s, requires_grad=True) for s in ROWS[name].shapes((2, 3), 4)]
    torch._dynamo.reset()  # each kind is a compilation of the same code
    compiled = torch.compile(ROWS[name].op, fullgraph=True, backend="aot_eager")
    seeds = [torch.randn_like(y) for y in _tuple(ROWS[name].oracle(*inputs))]
    for got, want in zip(
        _results(compiled, inputs, seeds), _results(ROWS[name].op, inputs, seeds), strict=True
    ):
        close(got, want)


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::torch.jit.TracerWarning")
@pytest.mark.parametrize("name", ROWS)
def test_trace(name: str) -> None:
    """Without gradients too a kernel is seen by torch.jit.trace, which the older ONNX exporter uses."""
    drawn, others = ([torch.randn(s) for s in ROWS[name].shapes((20,), 512)] for _ in range(2))
    with torch.no_grad():
        op = lambda *x: ROWS[name].op(*x)  # noqa: E731, PLW0108 - a partial has no name to trace by
        traced = torch.jit.trace(op, tuple(drawn), check_trace=False)
        for got, want in zip(_tuple(traced(*others)), _tuple(ROWS[name].oracle(*others)), strict=True):
            close(got, want)


@NATIVE
def test_opcheck() -> None:
    x, added, weight = (torch.randn(s, requires_grad=True) for s in ((3, 4), (3, 4), (4,)))
    matrix = torch.randn(5, 4, requires_grad=True)
    opcheck(ACTIVATION, (x, None, None, "gelu", 1.0))
    opcheck(ACTIVATION, (x, added, added, "silu", 2.0))
    opcheck(NORM, (x, weight, None, None, EPS))
    opcheck(NORM, (x, weight, weight, added, EPS))
    opcheck(PROJECT, (x, matrix, None, torch.randn(3, 5, requires_grad=True)))


# torch's own gelu loses the tail: it adds 1 to erf.
WIDE: dict[str, Callable[[Tensor], Tensor]] = {
    "gelu": lambda x: x * torch.special.erfc(-x / math.sqrt(2)) / 2,
    "silu": lambda x: x * x.sigmoid(),
}
FAR = [-3e38, -1e4, -40.0, -13.0, -9.0, -1.0, -1e-30, -0.0, 0.0, 1e-30, 1.0, 9.0, 13.0, 1e4, 1e30, 3e38]


@NATIVE
@pytest.mark.parametrize("form", ["kernels"], indirect=True)
@pytest.mark.parametrize(("dtype", "eps"), [(torch.float32, 200), (torch.float64, 200), (torch.bfloat16, 2)])
@pytest.mark.parametrize("x", FAR)
@pytest.mark.parametrize("kind", WIDE)
def test_each_number(kind: str, x: float, dtype: torch.dtype, eps: float) -> None:
    """Each by itself, for the large ones would hide the small; next to nothing may be nothing."""
    near = torch.tensor([x], dtype=dtype, requires_grad=True)
    wide = near.detach().double().requires_grad_()
    y, want = ops.activate(kind, near), WIDE[kind](wide)
    for got, truth in ((y, want), (torch.autograd.grad(y, near)[0], torch.autograd.grad(want, wide)[0])):
        allowed = eps * torch.finfo(dtype).eps * truth.abs() + 1e-37 * (truth.abs() < 1e-36)
        assert (got.double() - truth).abs() <= allowed


@pytest.mark.parametrize("dtype", REAL)
def test_far_out(dtype: torch.dtype) -> None:
    x = torch.tensor([-1e4, -40.0, -9.0, -0.0, 0.0, 9.0, 40.0, 1e4], dtype=dtype)
    assert ops.activate("gelu", torch.tensor([float("nan")], dtype=dtype)).isnan()
    assert ops.activate("gelu", torch.tensor([float("inf")], dtype=dtype)).isposinf()
    large = ops.rms_norm(x, torch.ones(8, dtype=dtype))
    close(large, _norm(x.double(), torch.ones(8, dtype=torch.float64)))
    shifted = torch.randn(3, 300, dtype=dtype) + 100
    affine = (torch.ones(300, dtype=dtype), torch.zeros(300, dtype=dtype))
    centred = ops.add_layer_norm(shifted, None, *affine)[1]
    close(centred, _layer_norm(shifted.double(), *(a.double() for a in affine)))
    assert not ops.rms_norm(torch.zeros(8, dtype=dtype), torch.ones(8, dtype=dtype)).any()


@pytest.mark.parametrize("name", ROWS)
def test_results_are_where_the_inputs_are(name: str) -> None:
    """On whatever device new tensors are made."""
    inputs = [torch.randn(s) for s in ROWS[name].shapes((2, 3), 4)]
    with torch.no_grad(), torch.device("meta"):
        assert all(y.is_cpu for y in _tuple(ROWS[name].op(*inputs)))


def test_autocast() -> None:
    x, weight, matrix = torch.randn(2, 3, 8), torch.rand(8), torch.randn(5, 8)
    with torch.autocast("cpu", torch.bfloat16):
        total, y = ops.add_rms_norm(x, x.bfloat16(), weight)
        assert total.dtype == y.dtype == torch.float32
        assert ops.project(y, matrix).dtype == torch.bfloat16
        assert ops.project(y, matrix, added=torch.zeros(2, 3, 5)).dtype == torch.float32


def test_parts_of_one_tensor() -> None:
    both = torch.randn(2, 3, 34, requires_grad=True)
    gate, value = both.chunk(2, -1)
    y = ops.activate("silu", gate, value)
    close(y, F.silu(gate.double()) * value.double())
    close(torch.autograd.grad(y.sum(), both)[0], torch.autograd.grad((F.silu(gate) * value).sum(), both)[0])


def test_errors() -> None:
    x = torch.randn(2, 3, 8)
    with pytest.raises(ValueError, match=r"kind must be one of gelu, .*, identity, got 'swish'"):
        ops.activate("swish", x)
    with pytest.raises(ValueError, match=r"factor must be like x, \[2, 3, 8\], got \[8\]"):
        ops.activate("silu", x, x[0, 0])
    with pytest.raises(ValueError, match=r"added must be like x, \[2, 3, 8\], got \[8\]"):
        ops.activate("silu", x, None, x[0, 0])
    with pytest.raises(ValueError, match=r"cap must be greater than 0, got 0"):
        ops.soft_cap(x, 0)
