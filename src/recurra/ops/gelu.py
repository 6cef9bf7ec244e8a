"""The Gaussian error linear unit."""

from typing import Any

from torch import Tensor
from torch.nn.functional import gelu as torch_gelu

from recurra.ops import native
from recurra.ops.registry import define, pullback, transforms_active, unobserved

__all__ = ["gelu"]


def _backward(ctx: Any, dy: Tensor) -> Tensor:
    dx: Tensor = BACKWARD(dy, *ctx.saved_tensors)
    return dx


def _backward_twice(ctx: Any, ddx: Tensor) -> tuple[Tensor, ...]:
    def first(dy: Tensor, x: Tensor) -> tuple[Tensor, ...]:
        return pullback(torch_gelu, (x,), dy)

    return pullback(first, ctx.saved_tensors, (ddx,))


def _setup(ctx: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
    ctx.save_for_backward(*inputs)


OP = define(
    "gelu(Tensor x) -> Tensor",
    fake=lambda x: x.new_empty(x.shape),
    setup=_setup,
    backward=_backward,
    cpu=lambda x: native.gelu(x.contiguous()),
)
BACKWARD = define(
    "gelu_backward(Tensor dy, Tensor x) -> Tensor",
    fake=lambda dy, x: x.new_empty(x.shape),
    setup=_setup,
    backward=_backward_twice,
    cpu=lambda dy, x: native.gelu_backward(dy.contiguous(), x.contiguous()),
)


def gelu(x: Tensor) -> Tensor:
    """y = x Phi(x), Phi the normal distribution function; x of any shape (arXiv 1606.08415, equation 2)."""
    if transforms_active() or x.is_complex() or not native.takes(x):
        return torch_gelu(x)
    if unobserved(x) and x.is_contiguous():
        return native.gelu(x)
    y: Tensor = OP(x)
    return y
