"""The norm of a residual sum, root mean square or centred: both in one pass over memory, each way."""

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from recurra.ops import native
from recurra.ops.linear import state_dtype
from recurra.ops.registry import define, pullback, transforms_active, unobserved

__all__ = ["EPS", "LAYER_EPS", "add_layer_norm", "add_rms_norm", "head_norm", "rms_norm"]

EPS, LAYER_EPS = 1e-6, 1e-5


def norm_open(
    x: Tensor, weight: Tensor, bias: Tensor | None, added: Tensor | None, eps: float
) -> tuple[Tensor, Tensor]:
    """Plain torch on any device. Differentiable any number of times."""
    total = x if added is None else x + added
    wide = total.to(state_dtype(total.dtype))
    w = weight.to(wide.dtype)
    if bias is not None and weight.ndim > 1:  # of each head its own
        normed = F.layer_norm(wide, wide.shape[-1:], eps=eps)
        return total, (normed * w + bias.to(wide.dtype)).to(x.dtype)
    if bias is None:
        return total, F.rms_norm(wide, w.shape, w, eps).to(x.dtype)
    return total, F.layer_norm(wide, w.shape, w, bias.to(wide.dtype), eps).to(x.dtype)


def _cpu(
    x: Tensor, weight: Tensor, bias: Tensor | None, added: Tensor | None, eps: float
) -> tuple[Tensor, Tensor, Tensor]:
    bias, added = (None if t is None else t.contiguous() for t in (bias, added))
    total, y, moments = native.norm(x.contiguous(), weight.contiguous(), bias, added, eps)
    # An op's outputs are not its inputs.
    return x.new_empty(0) if added is None else total, y, moments


def _fake(
    x: Tensor, weight: Tensor, bias: Tensor | None, added: Tensor | None, eps: float
) -> tuple[Tensor, Tensor, Tensor]:
    total = x.new_empty(0 if added is None else x.shape)
    return total, x.new_empty(x.shape), x.new_empty((*x.shape[:-1], 2), dtype=state_dtype(x.dtype))


def _setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor, Tensor]) -> None:
    x, weight, bias, added, ctx.eps = inputs
    ctx.adds, ctx.centred = added is not None, bias is not None
    ctx.save_for_backward(output[0] if ctx.adds else x, weight, output[2])
    ctx.mark_non_differentiable(output[2])


def _backward(ctx: Any, dsum: Tensor, dy: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
    dsum_or_none = dsum if ctx.adds else None
    dx, dweight, dbias = BACKWARD(dsum_or_none, dy, *ctx.saved_tensors, ctx.centred, ctx.eps)
    return dx, dweight, dbias if ctx.centred else None, dx if ctx.adds else None, None


def _cpu_backward(
    dsum: Tensor | None, dy: Tensor, x: Tensor, weight: Tensor, moments: Tensor, centred: bool, eps: float
) -> tuple[Tensor, Tensor, Tensor]:
    dsum = None if dsum is None else dsum.contiguous()
    rest = (dy.contiguous(), x.contiguous(), weight.contiguous())
    return native.norm_backward(dsum, *rest, moments, centred)


def _setup_twice(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    dsum, dy, x, weight, _, ctx.centred, ctx.eps = inputs
    ctx.adds = dsum is not None
    ctx.save_for_backward(dy, x, weight)


def _backward_twice(ctx: Any, *cotangents: Tensor) -> tuple[Tensor | None, ...]:
    def first(dy: Tensor, x: Tensor, weight: Tensor) -> tuple[Tensor, ...]:
        def f(x: Tensor, weight: Tensor, *bias: Tensor) -> Tensor:
            return norm_open(x, weight, bias[0] if bias else None, None, ctx.eps)[1]

        # No derivative depends on the bias.
        return pullback(f, (x, weight, torch.zeros_like(weight)) if ctx.centred else (x, weight), dy)

    seeds = cotangents if ctx.centred else cotangents[:2]
    # What comes by way of the sum passes unchanged; the moments are functions of x, computed again.
    passed = cotangents[0] if ctx.adds else None
    return passed, *pullback(first, ctx.saved_tensors, seeds), None, None, None


def _fake_backward(
    dsum: Tensor | None, dy: Tensor, x: Tensor, weight: Tensor, moments: Tensor, centred: bool, eps: float
) -> tuple[Tensor, Tensor, Tensor]:
    return (
        x.new_empty(x.shape),
        weight.new_empty(weight.shape),
        weight.new_empty(weight.shape if centred else 0),
    )


OP = define(
    "norm(Tensor x, Tensor weight, Tensor? bias, Tensor? added, float eps) -> (Tensor, Tensor, Tensor)",
    fake=_fake,
    setup=_setup,
    backward=_backward,
    cpu=_cpu,
)
BACKWARD = define(
    "norm_backward(Tensor? dsum, Tensor dy, Tensor x, Tensor weight, Tensor moments, bool centred, float eps)"
    " -> (Tensor, Tensor, Tensor)",
    fake=_fake_backward,
    setup=_setup_twice,
    backward=_backward_twice,
    cpu=_cpu_backward,
)


def _like_last_axes(name: str, given: Tensor, x: Tensor, axes: int) -> None:
    shape = x.shape[-axes:]
    if given.shape != shape or given.ndim != axes or given.device != x.device:
        last = "axis" if axes == 1 else "axes"
        wanted, got = f"{list(shape)} on {x.device}", f"{list(given.shape)} on {given.device}"
        raise ValueError(f"{name} must be {wanted}, as the last {last} of x, got {got}")


def _add_norm(
    x: Tensor, added: Tensor | None, weight: Tensor, bias: Tensor | None, eps: float, axes: int = 1
) -> tuple[Tensor, Tensor]:
    if not (x.is_floating_point() or x.is_complex()) or not x.ndim:
        raise ValueError(f"x must be floating point [..., width], got {x.dtype} {list(x.shape)}")
    _like_last_axes("weight", weight, x, axes)
    if bias is not None:
        _like_last_axes("bias", bias, x, axes)
    if added is not None:
        if added.shape != x.shape or added.device != x.device:
            wanted, got = f"{list(x.shape)} on {x.device}", f"{list(added.shape)} on {added.device}"
            raise ValueError(f"added must be like x, {wanted}, got {got}")
        added = added.to(x.dtype)
    known = [t for t in (x, weight, bias, added) if t is not None]
    if transforms_active() or x.is_complex() or not native.takes(*known):
        return norm_open(x, weight, bias, added, eps)
    if unobserved(*known) and all(t.is_contiguous() for t in known):
        return native.norm(x, weight, bias, added, eps, keep=False)[:2]
    total, y, _ = OP(x, weight, bias, added, eps)
    return x if added is None else total, y


def add_rms_norm(x: Tensor, added: Tensor | None, weight: Tensor, eps: float = EPS) -> tuple[Tensor, Tensor]:
    """s = x + added, and y = w s / sqrt(mean(s^2) + eps) over the last axis (arXiv 1910.07467, equation 4).

    x, added [..., D] (None: nothing), weight [D]; returns (s, y), of the shape and dtype of x. Raises
    ValueError that names the argument.
    """
    return _add_norm(x, added, weight, None, eps)


def add_layer_norm(
    x: Tensor, added: Tensor | None, weight: Tensor, bias: Tensor, eps: float = LAYER_EPS
) -> tuple[Tensor, Tensor]:
    """s = x + added, and y = w (s - mean(s)) / sqrt(var(s) + eps) + b over the last axis (arXiv 1607.06450).

    x, added [..., D] (None: nothing), weight, bias [D]; returns (s, y), of the shape and dtype of x. Raises
    ValueError that names the argument.
    """
    return _add_norm(x, added, weight, bias, eps)


def rms_norm(x: Tensor, weight: Tensor) -> Tensor:
    """y = w x / sqrt(mean(x^2) + 1e-6): `add_rms_norm` of nothing added."""
    return add_rms_norm(x, None, weight)[1]


def head_norm(x: Tensor, weight: Tensor, bias: Tensor, eps: float = LAYER_EPS) -> Tensor:
    """y = w (x - mean(x)) / sqrt(var(x) + eps) + b, each head by itself: a group norm of channels.

    x [..., H, C], weight, bias [H, C]. Raises ValueError that names the argument.
    """
    return _add_norm(x, None, weight, bias, eps, axes=2)[1]
