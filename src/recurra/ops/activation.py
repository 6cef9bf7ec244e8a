"""Activations, and gates: an activation times something else, in one pass over memory each way."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from recurra.ops import native
from recurra.ops.registry import define, pullback, transforms_active, unobserved

__all__ = ["ACTIVATIONS", "activate"]

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "gelu": F.gelu,
    "silu": F.silu,
    "sigmoid": torch.sigmoid,
    "relu_square": lambda x: x.relu().square(),
    "log_sigmoid": F.logsigmoid,
}


def activation_open(x: Tensor, factor: Tensor | None, added: Tensor | None, kind: str) -> Tensor:
    """Plain torch on any device. Differentiable any number of times."""
    y = ACTIVATIONS[kind](x)
    y = y if factor is None else y * factor
    return y if added is None else y + added


def _setup(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    x, factor, added, ctx.kind = inputs
    ctx.adds = added is not None
    ctx.save_for_backward(x, factor)


def _setup_twice(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    *tensors, ctx.kind = inputs
    ctx.save_for_backward(*tensors)


def _backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
    x, factor = ctx.saved_tensors
    dx, dfactor = BACKWARD(dy, x, factor, ctx.kind)
    return dx, None if factor is None else dfactor, dy if ctx.adds else None, None


def _backward_twice(ctx: Any, ddx: Tensor, ddfactor: Tensor) -> tuple[Tensor | None, ...]:
    *inputs, factor = ctx.saved_tensors
    given = inputs if factor is None else [*inputs, factor]
    cotangents = (ddx,) if factor is None else (ddx, ddfactor)

    def f(x: Tensor, *factor: Tensor) -> Tensor:
        return activation_open(x, factor[0] if factor else None, None, ctx.kind)

    def first(dy: Tensor, *inputs: Tensor) -> tuple[Tensor, ...]:
        return pullback(f, inputs, dy)

    second = pullback(first, tuple(given), cotangents)
    return (*second, *[None] * (4 - len(second)))


def _cpu_backward(dy: Tensor, x: Tensor, factor: Tensor | None, kind: str) -> tuple[Tensor, Tensor]:
    dx, dfactor = native.activation_backward(kind, dy, x, factor)
    return dx, x.new_empty(0) if dfactor is None else dfactor


OP = define(
    "activation(Tensor x, Tensor? factor, Tensor? added, str kind) -> Tensor",
    fake=lambda x, factor, added, kind: x.new_empty(x.shape),
    setup=_setup,
    backward=_backward,
    cpu=lambda x, factor, added, kind: native.activation(kind, x, factor, added),
)
BACKWARD = define(
    "activation_backward(Tensor dy, Tensor x, Tensor? factor, str kind) -> (Tensor, Tensor)",
    fake=lambda dy, x, factor, kind: (x.new_empty(x.shape), x.new_empty(0 if factor is None else x.shape)),
    setup=_setup_twice,
    backward=_backward_twice,
    cpu=_cpu_backward,
)


def activate(kind: str, x: Tensor, factor: Tensor | None = None, added: Tensor | None = None) -> Tensor:
    """y = f(x), times factor and plus added unless None; f one of gelu (x Phi(x), arXiv 1606.08415), silu
    (x sigmoid(x)), sigmoid, relu_square (max(x, 0)^2), log_sigmoid.

    x, factor, added [...] of one shape; parts of one tensor, as of a fused product, are not copied. Raises
    ValueError that names the argument.
    """
    if kind not in ACTIVATIONS:
        raise ValueError(f"kind must be one of {', '.join(ACTIVATIONS)}, got {kind!r}")
    for name, other in (("factor", factor), ("added", added)):
        if other is not None and other.shape != x.shape:
            raise ValueError(f"{name} must be like x, {list(x.shape)}, got {list(other.shape)}")
    known = [t for t in (x, factor, added) if t is not None]
    if transforms_active() or x.is_complex() or not x.numel() or not x.ndim or not native.takes(*known):
        return activation_open(x, factor, added, kind)
    if unobserved(*known):
        return native.activation(kind, x, factor, added)
    y: Tensor = OP(x, factor, added, kind)
    return y
