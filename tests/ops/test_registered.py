"""What PyTorch is told about the ops: opcheck, fullgraph compile with a free time axis, autocast."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.library import opcheck

from recurra import ops
from recurra.ops import native
from recurra.ops.block_product import BACKWARD as FOURS_BACKWARD
from recurra.ops.block_product import OP as FOURS
from recurra.ops.causal_conv import BACKWARD as CONV_BACKWARD
from recurra.ops.causal_conv import OP as CONV
from recurra.ops.gated import BACKWARD as GATED_BACKWARD
from recurra.ops.gated import FUSIONS
from recurra.ops.gated import OP as GATED
from recurra.ops.linear import BACKWARD as LINEAR_BACKWARD
from recurra.ops.linear import OP as LINEAR
from recurra.ops.project import OP as PROJECT
from recurra.ops.selective import BACKWARD as SELECTIVE_BACKWARD
from recurra.ops.selective import OP as SELECTIVE
from recurra.ops.softmax import BACKWARD as SOFTMAX_BACKWARD
from recurra.ops.softmax import OP as SOFTMAX
from recurra.ops.token_mix import BACKWARD as TOKEN_MIX_BACKWARD
from recurra.ops.token_mix import OP as TOKEN_MIX
from recurrences import LAYOUTS, NATIVE, ROWS, Case, Drawn, draw
from tools import close

CASES = [Case(5, 3, "none"), Case(5, 3, "both", True), Case(0, 2), Case(4, 17, "both", batch=0)]
FULL = ("test_schema", "test_autograd_registration", "test_faketensor", "test_aot_dispatch_dynamic")
# Strides are promised for every layout of the inputs; the rest of opcheck takes a second each.
LAID_OUT = [(case, layout, "test_faketensor") for case in CASES[:2] for layout in LAYOUTS]
CHECKS = [*LAID_OUT, *((case, "contiguous", FULL) for case in CASES)]


def _check(op: Any, *arguments: Any, utils: Any) -> None:
    leaves = (x.detach().requires_grad_() if _differentiable(x) else x for x in arguments)
    opcheck(op, tuple(leaves), test_utils=utils)


def _differentiable(x: Any) -> bool:
    return isinstance(x, Tensor) and (x.is_floating_point() or x.is_complex())


def _drawn(case: Case, dtype: torch.dtype, layout: str) -> Drawn:
    """What the case draws for `linear`, all of it in this layout."""
    drawn, f = draw(ROWS["linear"], case, dtype), LAYOUTS[layout]
    h_0, dh_n = f(drawn.h_0[:, None])[:, 0], f(drawn.dh_n[:, None])[:, 0]
    return drawn._replace(xs=tuple(f(x) for x in drawn.xs), h_0=h_0, dy=f(drawn.dy), dh_n=dh_n)


@pytest.mark.parametrize(("dtype", "kernels"), [(torch.bfloat16, True), (torch.complex64, False)])
@pytest.mark.parametrize(("case", "layout", "utils"), CHECKS)
def test_opcheck_linear(
    monkeypatch: pytest.MonkeyPatch, case: Case, layout: str, utils: Any, dtype: torch.dtype, kernels: bool
) -> None:
    if not kernels:
        monkeypatch.setattr(native, "takes", lambda *_: False)
    (a, b), h_0, reset, lengths, dy, dh_n = _drawn(case, dtype, layout)
    rest = (reset, lengths, case.reverse)
    y, _ = LINEAR(a, b, h_0, *rest)
    _check(LINEAR, a, b, h_0, *rest, utils=utils)
    _check(LINEAR_BACKWARD, dy, dh_n, a, h_0, y, *rest, utils=utils)


@NATIVE
@pytest.mark.parametrize(
    ("fusion", "dtype"), [("mingru_positive", torch.bfloat16), ("minlstm_tanh", torch.float32)]
)
@pytest.mark.parametrize(("case", "layout", "utils"), CHECKS)
def test_opcheck_gated(case: Case, layout: str, utils: Any, fusion: str, dtype: torch.dtype) -> None:
    (x, _), h_0, reset, lengths, dy, dh_n = _drawn(case, dtype, layout)
    gates = LAYOUTS[layout](torch.cat([x] * FUSIONS[fusion].parts, -1))
    rest = (reset, lengths, fusion, case.reverse)
    y, _ = GATED(gates, h_0, *rest)
    _check(GATED, gates, h_0, *rest, utils=utils)
    _check(GATED_BACKWARD, dy, dh_n, gates, h_0, y, *rest, utils=utils)


@NATIVE
@pytest.mark.parametrize(("biased", "dtype"), [(True, torch.float32), (False, torch.bfloat16)])
@pytest.mark.parametrize(("case", "layout", "utils"), CHECKS)
def test_opcheck_conv(case: Case, layout: str, utils: Any, biased: bool, dtype: torch.dtype) -> None:
    (_, x), _, reset, lengths, dy, _ = _drawn(case, dtype, layout)
    weight, bias = torch.randn(4, case.width, dtype=dtype).t(), torch.randn(case.width, dtype=dtype)
    state = torch.randn(case.batch, case.width, 3).mT
    _check(CONV, x, weight, bias if biased else None, state, reset, lengths, utils=utils)
    _check(CONV_BACKWARD, dy, state + 1, x, weight, state, reset, lengths, utils=utils)


@NATIVE
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("case", "layout", "utils"), CHECKS)
def test_opcheck_softmax(case: Case, layout: str, utils: Any, dtype: torch.dtype) -> None:
    xs, state, reset, lengths, dy, dstate = draw(ROWS["softmax decaying"], case, dtype)
    steps = [LAYOUTS[layout](x) for x in (*xs[:2], dy)]
    arguments = (*steps[:2], *(x.to(state.dtype) for x in xs[2:]), state, reset, lengths, case.reverse)
    _check(SOFTMAX, *arguments, utils=utils)
    _check(SOFTMAX_BACKWARD, steps[2], dstate, *arguments, utils=utils)


@NATIVE
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("case", "layout", "utils"), CHECKS)
def test_opcheck_token_mix(case: Case, layout: str, utils: Any, dtype: torch.dtype) -> None:
    (_, x), h_0, reset, lengths, dy, dh_n = _drawn(case, dtype, layout)
    arguments = (x, torch.randn(3, case.width), h_0[:, None], reset, lengths)
    _check(TOKEN_MIX, *arguments, utils=utils)
    _check(TOKEN_MIX_BACKWARD, dy, dy + 1, dy, None, dh_n[:, None], *arguments, utils=utils)


@NATIVE
@pytest.mark.parametrize(("dtype", "gated"), [(torch.float32, False), (torch.bfloat16, True)])
@pytest.mark.parametrize(("case", "layout", "utils"), CHECKS)
def test_opcheck_selective(case: Case, layout: str, utils: Any, dtype: torch.dtype, gated: bool) -> None:
    (*steps, A, D, bias), h_0, reset, lengths, dy, dh_n = draw(ROWS["selective"], case, dtype)
    x, delta, B, C, z, dy = (LAYOUTS[layout](x) for x in (*steps, dy))
    parameters = (p.to(h_0.dtype) for p in (A.t(), D, bias))
    arguments = (x, delta, B, C, z if gated else z[..., :0].clone(), *parameters, h_0)
    _check(SELECTIVE, *arguments, reset, lengths, utils=utils)
    entering = SELECTIVE(*arguments, reset, lengths)[2].nan_to_num()
    _check(SELECTIVE_BACKWARD, dy, dh_n, *arguments, entering, reset, lengths, utils=utils)


@pytest.mark.parametrize("shape", [(3, 5), (2, 9, 5), (2, 40, 5), (0, 5), (5,), (3, 0)])
def test_opcheck_project(shape: tuple[int, ...]) -> None:
    x, weight = torch.randn(*shape), torch.randn(7, shape[-1])
    _check(PROJECT, x, weight, torch.randn(7), torch.randn(*shape[:-1], 7), utils=FULL)
    _check(PROJECT, x.to(torch.bfloat16), weight.to(torch.bfloat16), None, None, utils=FULL)


@NATIVE
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_opcheck_fours(dtype: torch.dtype) -> None:
    xs = [torch.randn(2, 5, 8, dtype=dtype, requires_grad=True) for _ in range(2)]
    weights = [torch.randn(parts, 2, 4, 4, dtype=dtype, requires_grad=True) for parts in (2, 1)]
    opcheck(FOURS, (xs, weights), test_utils=FULL)
    opcheck(FOURS_BACKWARD, (torch.randn(2, 5, 24, dtype=dtype), xs, weights), test_utils=FULL)


# ----------------------------------------------------------------------------------------------
# Compiled: one graph, the time axis free.


def _matrices(x: Tensor) -> tuple[Tensor, ...]:
    """a, b, c and skip of a diagonal state space of two states a channel."""
    half = torch.full((x.shape[-1], 2), 0.5, dtype=torch.promote_types(x.dtype, torch.float32))
    a = torch.complex(half, half)
    return a, a, a, half[:, 0]


def _fixed(x: Tensor) -> tuple[Tensor, ...]:
    """A, D and the bias of two channels of three states."""
    A = torch.tensor([[-1.0, -0.1, -3], [0, -2, -0.5]])
    return A.to(x.dtype), torch.ones(2, dtype=x.dtype), torch.ones(2, dtype=x.dtype)


def _joined(done: tuple[tuple[Tensor, ...], Any]) -> tuple[Tensor, Any]:
    return torch.cat(done[0], -1), done[1]


COMPILED: dict[str, Callable[..., Any]] = {
    "linear": lambda x, *masks: ops.linear(x[..., :6].sigmoid(), x[..., 6:], None, *masks),
    "linear reversed": lambda x, *masks: ops.linear(x[..., :6], x[..., 6:], None, *masks, reverse=True),
    "mingru": lambda x, *masks: ops.mingru(x, None, *masks),
    "minlstm": lambda x, *masks: ops.minlstm(x, None, *masks, reverse=True),
    "causal_conv": lambda x, *masks: ops.causal_conv(x, torch.ones(12, 4, dtype=x.dtype), None, None, *masks),
    "selective": lambda x, *masks: ops.selective(
        *x[..., :4].split(2, -1),
        *_fixed(x)[:1],
        *x[..., 4:10].split(3, -1),
        *_fixed(x)[1:],
        x[..., 10:],
        None,
        *masks,
    ),
    "softmax": lambda x, *masks: ops.softmax(x[..., :4], x[..., 4:], None, *masks),
    "softmax reversed": lambda x, *masks: ops.softmax(
        x, x.cos(), None, *masks, decay=torch.ones(12), bonus=torch.ones(12), reverse=True
    ),
    "diagonal": lambda x, *masks: ops.diagonal(x, *_matrices(x), None, *masks),
    "token_mix": lambda x, *masks: _joined(ops.token_mix(x, (torch.ones(12), -torch.ones(12)), None, *masks)),
    "token_shift": lambda x, *masks: ops.token_shift(x, None, *masks),
    "block_product": lambda x, *_: (
        ops.block_product((x, x.cos()), (torch.ones(2, 3, 4, 4, dtype=x.dtype),) * 2),
        (x,),
    ),
    "project": lambda x, *_: (ops.project(x, torch.ones(5, 12, dtype=x.dtype)), (x,)),
}


def _out(f: Callable[..., Any], x: Tensor, *masks: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
    x = x.clone().requires_grad_()
    y, state = f(x, *masks)
    (dx,) = torch.autograd.grad(y.square().sum() + state[0].abs().square().sum(), x)
    return y, state[0], dx


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("name", COMPILED)
def test_compile(name: str, masked: bool) -> None:
    torch._dynamo.reset()
    count = torch._dynamo.testing.CompileCounterWithBackend("aot_eager")
    f = torch.compile(COMPILED[name], fullgraph=True, dynamic=True, backend=count)
    for time in (7, 12, 30):
        x = torch.randn(3, time, 12)
        masks = (torch.rand(3, time) < 0.2, torch.tensor([time, 1, 4])) if masked else ()
        for got, want in zip(_out(f, x, *masks), _out(COMPILED[name], x, *masks), strict=True):
            close(got, want)
    assert count.frame_count == 1, "a second length compiled a second graph"


@pytest.mark.parametrize("name", COMPILED)
def test_compile_without_gradients(name: str) -> None:
    torch._dynamo.reset()
    f = torch.compile(COMPILED[name], fullgraph=True, backend="aot_eager")
    with torch.no_grad():
        for time in (5, 9):
            x = torch.randn(2, time, 12)
            close(f(x)[0], COMPILED[name](x)[0])


def test_compile_of_complex_numbers() -> None:
    torch._dynamo.reset()
    a, b = (torch.randn(2, 6, 3, dtype=torch.complex64).div(2).requires_grad_() for _ in range(2))

    def f(a: Tensor, b: Tensor) -> tuple[Tensor, ...]:
        y, state = ops.linear(a, b.conj(), reverse=True)
        return y.real, y.imag, state.h.real

    compiled = torch.compile(f, fullgraph=True, backend="aot_eager")
    for form in (True, False):
        with pytest.MonkeyPatch.context() as patch:
            if not form:
                patch.setattr(native, "takes", lambda *_: False)
            seeds = tuple(torch.randn_like(x) for x in f(a, b))
            got = torch.autograd.grad(compiled(a, b), (a, b), seeds)
            for x, y in zip(got, torch.autograd.grad(f(a, b), (a, b), seeds), strict=True):
                close(x, y)


@pytest.mark.parametrize("name", ["linear", "mingru"])
def test_compile_of_a_transform_is_right_or_raises(name: str) -> None:
    """A derivative that a compiled transform can't see must never come out as zero."""
    torch._dynamo.reset()
    x = torch.randn(2, 5, 12)
    f = torch.func.grad(lambda x: COMPILED[name](x)[0].square().sum())
    try:
        got = torch.compile(f, backend="aot_eager")(x)
    except torch._dynamo.exc.TorchRuntimeError:
        return
    close(got, f(x))


# ----------------------------------------------------------------------------------------------
# Autocast: a layer is a product, in bf16, and a recurrence that takes what it gets.


@pytest.mark.parametrize("name", ["mingru", "minlstm", "causal_conv", "selective", "softmax", "token_shift"])
def test_autocast(name: str) -> None:
    x, weight = torch.randn(2, 9, 8), torch.randn(12, 8, requires_grad=True)

    def layer() -> tuple[Tensor, Any]:
        return COMPILED[name](ops.project(x, weight))

    with torch.autocast("cpu", torch.bfloat16):
        y, state = layer()
    want = layer()
    assert y.dtype == torch.bfloat16
    if name in ("mingru", "minlstm", "selective", "softmax"):
        assert state[0].dtype == torch.float32
    close(y, want[0], eps=8)
    (grad,) = torch.autograd.grad(y.float().sum(), weight)
    assert grad.dtype == torch.float32
    (grad_want,) = torch.autograd.grad(want[0].sum(), weight)
    close(grad.bfloat16(), grad_want, eps=8)


def test_linear_autocast_of_mixed_dtypes() -> None:
    a, b = torch.rand(2, 5, 3), torch.randn(2, 5, 3).bfloat16()
    with torch.autocast("cpu", torch.bfloat16):
        y, _ = ops.linear(a, b)
    assert y.dtype == torch.float32
    close(y, ops.linear(a, b.float())[0])
