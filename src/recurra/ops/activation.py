"""Activations, and gates: an activation times something else, in one pass over memory each way."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from recurra.ops import native
from recurra.ops.registry import define, pullback, transforms_active, unobserved

__all__ = ["ACTIVATIONS", "activate", "soft_cap"]

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "gelu": F.gelu,
    "silu": F.silu,
    "sigmoid": torch.sigmoid,
    "relu_square": lambda x: x.relu().square(),
    "log_sigmoid": F.logsigmoid,
    "tanh": torch.tanh,
    "identity": lambda x: x,
}


def activation_open(
    x: Tensor, factor: Tensor | None, added: Tensor | None, kind: str, scale: float
) -> Tensor:
    """Plain torch on any device. Differentiable any number of times."""
    y = ACTIVATIONS[kind](x) if scale == 1 else scale * ACTIVATIONS[kind](x / scale)
    y = y if factor is None else y * factor
    return y if added is None else y + added


def _setup(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    x, factor, added, ctx.kind, ctx.scale = inputs
    ctx.adds = added is not None
    ctx.save_for_backward(x, factor)


def _setup_twice(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    *tensors, ctx.kind, ctx.scale = inputs
    ctx.save_for_backward(*tensors)


def _backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
    x, factor = ctx.saved_tensors
    dx, dfactor = BACKWARD(dy, x, factor, ctx.kind, ctx.scale)
    return dx, None if factor is None else dfactor, dy if ctx.adds else None, None, None


def _backward_twice(ctx: Any, ddx: Tensor, ddfactor: Tensor) -> tuple[Tensor | None, ...]:
    *inputs, factor = ctx.saved_tensors
    given = inputs if factor is None else [*inputs, factor]
    cotangents = (ddx,) if factor is None else (ddx, ddfactor)

    def f(x: Tensor, *factor: Tensor) -> Tensor:
        return activation_open(x, factor[0] if factor else None, None, ctx.kind, ctx.scale)

    def first(dy: Tensor, *inputs: Tensor) -> tuple[Tensor, ...]:
        return pullback(f, inputs, dy)

    second = pullback(first, tuple(given), cotangents)
    return (*second, *[None] * (5 - len(second)))


def _cpu_backward(
    dy: Tensor, x: Tensor, factor: Tensor | None, kind: str, scale: float
) -> tuple[Tensor, Tensor]:
    dx, dfactor = native.activation_backward(kind, dy, x, factor, scale)
    return dx, x.new_empty(0) if dfactor is None else dfactor


OP = define(
    "activation(Tensor x, Tensor? factor, Tensor? added, str kind, float scale) -> Tensor",
    fake=lambda x, factor, added, kind, scale: x.new_empty(x.shape),
    setup=_setup,
    backward=_backward,
    cpu=lambda x, factor, added, kind, scale: native.activation(kind, x, factor, added, scale),
)
BACKWARD = define(
    "activation_backward(Tensor dy, Tensor x, Tensor? factor, str kind, float scale) -> (Tensor, Tensor)",
    fake=lambda dy, x, factor, kind, scale: (
        x.new_empty(x.shape),
        x.new_empty(0 if factor is None else x.shape),
    ),
    setup=_setup_twice,
    backward=_backward_twice,
    cpu=_cpu_backward,
)


def activate(kind: str, x: Tensor, factor: Tensor | None = None, added: Tensor | None = None) -> Tensor:
    """y = f(x), times factor and plus added unless None; f one of gelu (x Phi(x), arXiv 1606.08415), silu
    (x sigmoid(x)), sigmoid, relu_square (max(x, 0)^2), log_sigmoid, tanh, identity.

    x, factor, added [...] of one shape; parts of one tensor, as of a fused product, are not copied. Raises
    ValueError that names the argument.
    """
    if kind not in ACTIVATIONS:
        raise ValueError(f"kind must be one of {', '.join(ACTIVATIONS)}, got {kind!r}")
    for name, other in (("factor", factor), ("added", added)):
        if other is not None and other.shape != x.shape:
            raise ValueError(f"{name} must be like x, {list(x.shape)}, got {list(other.shape)}")
    return _activated(x, factor, added, kind, 1.0)


def soft_cap(x: Tensor, cap: float) -> Tensor:
    """y = cap tanh(x / cap), which never exceeds cap; x [...] (arXiv 2408.00118, section 2). cap > 0."""
    if not 0 < cap < float("inf"):
        raise ValueError(f"cap must be greater than 0, got {cap}")
    return _activated(x, None, None, "tanh", cap)


def _activated(x: Tensor, factor: Tensor | None, added: Tensor | None, kind: str, scale: float) -> Tensor:
    """scale f(x / scale) factor + added."""
    known = [t for t in (x, factor, added) if t is not None]
    if transforms_active() or x.is_complex() or not x.numel() or not x.ndim or not native.takes(*known):
        return activation_open(x, factor, added, kind, scale)
    if unobserved(*known):
        return native.activation(kind, x, factor, added, scale)
    y: Tensor = OP(x, factor, added, kind, scale)
    return y
