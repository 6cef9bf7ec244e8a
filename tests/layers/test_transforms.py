"""PyTorch's transforms around whole layers: compile, torch.func, higher derivatives, autocast."""

import copy
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.func import functional_call, grad, jacrev, jvp, stack_module_state, vmap

from kinds import HIDDEN, INPUT, Kind, both_ways, each_kind, every_kind, run, start, step, truth
from tools import close, masks

BATCH = 3


def _x(time: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(BATCH, time, INPUT, dtype=dtype)


def _gradients(call: Any, rnn: Any, x: Tensor, **masks_: Tensor) -> tuple[Tensor, ...]:
    """(out, h_n, gradients of input and parameters) of a forward and a backward pass."""
    x = x.detach().requires_grad_()
    out, h_n = call(x, **masks_)
    loss = out.square().sum() + h_n.square().sum()
    return out, h_n, *torch.autograd.grad(loss, (x, *rnn.parameters()))


def _compiled(rnn: Any, backend: str) -> Any:
    def call(x: Tensor, **masks_: Tensor) -> tuple[Tensor, Tensor]:
        return run(rnn, x, **masks_)

    torch.compiler.reset()
    return torch.compile(call, backend=backend, fullgraph=True, dynamic=True)


def _meets_eager(rnn: Any, backend: str) -> None:
    call, eager = _compiled(rnn, backend), lambda x, **masks_: run(rnn, x, **masks_)
    # Sizes that happen to be equal are one symbol to the compiler: the first time is like no other size.
    for time in (8, 9, 17):
        x, (reset, lengths) = _x(time), masks(BATCH, time, seed=time)
        with torch.compiler.set_stance("default" if time == 8 else "fail_on_recompile"):
            got = _gradients(call, rnn, x, reset=reset, lengths=lengths)
        for one, other in zip(got, _gradients(eager, rnn, x, reset=reset, lengths=lengths), strict=True):
            close(one, other)


@every_kind
def test_compiles_with_free_time(kind: Kind) -> None:
    """Whole graphs, forward and backward, both directions, with masks; a new T compiles nothing."""
    _meets_eager(kind.stack(1, bidirectional=True), "aot_eager")


@each_kind
def test_compiles_with_inductor(kind: Kind) -> None:
    _meets_eager(kind.stack(2), "inductor")


@each_kind
@torch.no_grad()
def test_step_compiles(kind: Kind) -> None:
    rnn, x = kind.stack(2, **kind.learned), _x(4)
    torch.compiler.reset()
    compiled = torch.compile(lambda x_t, h: step(rnn, x_t, h), backend="aot_eager", fullgraph=True)
    h = compiled_h = None
    for x_t in x.unbind(1):
        want, h = step(rnn, x_t, h)
        got, compiled_h = compiled(x_t, compiled_h)
        close(got, want)
    close(compiled_h, h)


# ----------------------------------------------------------------------------------------------
# torch.func.


@every_kind
def test_ensemble(kind: Kind) -> None:
    """vmap over stacked parameters: as many models at once, each with its gradient."""
    models, x = [kind.stack(bidirectional=True) for _ in range(3)], _x(4)
    reset, lengths = masks(BATCH, 4, seed=1)
    parameters, buffers = stack_module_state(models)
    base = copy.deepcopy(models[0]).to("meta")

    def loss(p: Any, b: Any) -> Tensor:
        out, _ = functional_call(base, (p, b), (x,), {"reset": reset, "lengths": lengths})
        return out.square().sum()

    gradients = vmap(grad(loss))(parameters, buffers)
    for i, model in enumerate(models):
        out, _ = run(model, x, reset=reset, lengths=lengths)
        want = torch.autograd.grad(out.square().sum(), list(model.parameters()))
        for (name, _), wanted in zip(model.named_parameters(), want, strict=True):
            close(gradients[name][i], wanted)


@every_kind
def test_gradient_of_each_sample(kind: Kind) -> None:
    """vmap over inputs."""
    layer, x = kind.layer(), _x(4)
    parameters = dict(layer.named_parameters())

    def loss(p: Any, row: Tensor) -> Tensor:
        return functional_call(layer, p, (row[None],))[0].square().sum()

    each = vmap(grad(loss), (None, 0))(parameters, x)
    whole = torch.autograd.grad(layer(x)[0].square().sum(), list(parameters.values()))
    for got, want in zip(each.values(), whole, strict=True):
        close(got.sum(0), want)


@every_kind
@pytest.mark.parametrize("reverse", [False, True], ids=["forward", "reverse"])
def test_jvp(kind: Kind, reverse: bool) -> None:
    """Both kinds of forward mode, against a transposed Jacobian; never a silent zero."""
    layer = kind.layer(reverse=reverse, dtype=torch.float64)
    x, dx = _x(4, torch.float64), _x(4, torch.float64)
    reset, lengths = masks(BATCH, 4, seed=3)

    def f(x: Tensor) -> Tensor:
        return layer(x, None, reset, lengths)[0]

    want = torch.einsum("bthuvw,uvw->bth", jacrev(f)(x), dx)
    assert want.any()
    close(jvp(f, (x,), (dx,))[1], want)
    with forward_ad.dual_level():
        tangent = forward_ad.unpack_dual(f(forward_ad.make_dual(x, dx))).tangent
    close(tangent, want)


@every_kind
def test_second_derivatives(kind: Kind) -> None:
    layer = kind.layer(dtype=torch.float64)
    torch.manual_seed(2)
    x, h_0 = torch.randn(2, 3, INPUT, dtype=torch.float64), torch.randn(2, HIDDEN, dtype=torch.float64)
    reset, lengths = torch.tensor([[False, True, False]] * 2), torch.tensor([2, 3])
    names = [name for name, _ in layer.named_parameters()]

    def f(x: Tensor, h_0: Tensor, *parameters: Tensor) -> tuple[Tensor, ...]:
        values = dict(zip(names, parameters, strict=True))
        y, last = functional_call(layer, values, (x, kind.state(h_0), reset, lengths))
        return y, *last

    inputs = [p.detach().requires_grad_() for p in (x, h_0, *layer.parameters())]
    assert torch.autograd.gradcheck(f, inputs, fast_mode=True)
    assert torch.autograd.gradgradcheck(f, inputs, fast_mode=True)


# ----------------------------------------------------------------------------------------------
# Autocast.


@every_kind
@both_ways
def test_autocast(kind: Kind, bidirectional: bool) -> None:
    """Products in bf16, states in fp32; the weights keep their dtype, and so do their gradients."""
    rnn, x = kind.stack(1, bidirectional=bidirectional), _x(50)
    reset = torch.zeros(BATCH, 50, dtype=torch.bool)
    with torch.autocast("cpu", torch.bfloat16):
        out, h_n = run(rnn, x)
        again, again_n = run(rnn, x, reset=reset)
        stacked, _ = run(kind.stack(2), x.bfloat16())
    assert (out.dtype, h_n.dtype, stacked.dtype) == (torch.bfloat16, torch.float32, torch.bfloat16)
    close(out[..., :HIDDEN], truth_of(rnn, x))
    close(again, out)
    assert again_n.dtype == torch.float32
    (out.float().sum() + h_n.sum()).backward()
    for name, p in rnn.named_parameters():
        assert p.grad is not None, name
        assert p.grad.dtype == torch.float32


def truth_of(rnn: Any, x: Tensor) -> Tensor:
    layer = rnn.layers[0]
    h = start(layer)
    return truth(layer, x, None if h is None else h.expand(BATCH, -1))


@each_kind
def test_autocast_step_and_compile(kind: Kind) -> None:
    rnn, x = kind.stack(2), _x(5)
    with torch.autocast("cpu", torch.bfloat16):
        want, _ = run(rnn, x)
        h, ys = None, []
        for x_t in x.unbind(1):
            y, h = step(rnn, x_t, h)
            ys.append(y)
        got, _ = _compiled(rnn, "aot_eager")(x)
    close(torch.stack(ys, 1), want)
    close(got, want)
