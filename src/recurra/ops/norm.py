"""Root mean square norm of a residual sum: both in one pass over memory, each way."""

from typing import Any

from torch import Tensor
from torch.nn.functional import rms_norm as torch_rms_norm

from recurra.ops import native
from recurra.ops.linear import state_dtype
from recurra.ops.registry import define, pullback, transforms_active, unobserved

__all__ = ["EPS", "add_rms_norm", "rms_norm"]

EPS = 1e-6


def norm_open(x: Tensor, weight: Tensor, added: Tensor | None) -> tuple[Tensor, Tensor]:
    """Plain torch on any device. Differentiable any number of times."""
    total = x if added is None else x + added
    wide = total.to(state_dtype(total.dtype))
    return total, torch_rms_norm(wide, weight.shape, weight.to(wide.dtype), EPS).to(x.dtype)


def _cpu(x: Tensor, weight: Tensor, added: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
    added = None if added is None else added.contiguous()
    total, y, scale = native.norm(x.contiguous(), weight.contiguous(), added, EPS)
    # An op's outputs are not its inputs.
    return x.new_empty(0) if added is None else total, y, scale


def _fake(x: Tensor, weight: Tensor, added: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
    total = x.new_empty(0 if added is None else x.shape)
    return total, x.new_empty(x.shape), x.new_empty(x.shape[:-1], dtype=state_dtype(x.dtype))


def _setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor, Tensor]) -> None:
    x, weight, added = inputs
    ctx.adds = added is not None
    ctx.save_for_backward(output[0] if ctx.adds else x, weight, output[2])
    ctx.mark_non_differentiable(output[2])


def _backward(ctx: Any, dsum: Tensor, dy: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
    dx, dweight = BACKWARD(dsum if ctx.adds else None, dy, *ctx.saved_tensors)
    return dx, dweight, dx if ctx.adds else None


def _cpu_backward(
    dsum: Tensor | None, dy: Tensor, x: Tensor, weight: Tensor, scale: Tensor
) -> tuple[Tensor, Tensor]:
    dsum = None if dsum is None else dsum.contiguous()
    return native.norm_backward(dsum, dy.contiguous(), x.contiguous(), weight.contiguous(), scale)


def _setup_twice(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    dsum, dy, x, weight, _ = inputs
    ctx.adds = dsum is not None
    ctx.save_for_backward(dy, x, weight)


def _backward_twice(ctx: Any, *cotangents: Tensor) -> tuple[Tensor | None, ...]:
    def first(dy: Tensor, x: Tensor, weight: Tensor) -> tuple[Tensor, ...]:
        return pullback(lambda s, w: norm_open(s, w, None)[1], (x, weight), dy)

    # What comes by way of the sum passes unchanged; the scale is a function of x, computed again.
    return cotangents[0] if ctx.adds else None, *pullback(first, ctx.saved_tensors, cotangents), None


OP = define(
    "rms_norm(Tensor x, Tensor weight, Tensor? added) -> (Tensor, Tensor, Tensor)",
    fake=_fake,
    setup=_setup,
    backward=_backward,
    cpu=_cpu,
)
BACKWARD = define(
    "rms_norm_backward(Tensor? dsum, Tensor dy, Tensor x, Tensor weight, Tensor scale) -> (Tensor, Tensor)",
    fake=lambda dsum, dy, x, weight, scale: (x.new_empty(x.shape), weight.new_empty(weight.shape)),
    setup=_setup_twice,
    backward=_backward_twice,
    cpu=_cpu_backward,
)


def add_rms_norm(x: Tensor, added: Tensor | None, weight: Tensor) -> tuple[Tensor, Tensor]:
    """s = x + added, and y = w s / sqrt(mean(s^2) + 1e-6) over the last axis (arXiv 1910.07467, equation 4).

    x, added [..., D] (None: nothing), weight [D]; returns (s, y), of the shape and dtype of x. Raises
    ValueError that names the argument.
    """
    if not (x.is_floating_point() or x.is_complex()) or not x.ndim:
        raise ValueError(f"x must be floating point [..., width], got {x.dtype} {list(x.shape)}")
    if x.shape[-1:] != weight.shape or weight.device != x.device:
        wanted, got = f"{list(x.shape[-1:])} on {x.device}", f"{list(weight.shape)} on {weight.device}"
        raise ValueError(f"weight must be {wanted}, as the last axis of x, got {got}")
    if added is not None:
        if added.shape != x.shape or added.device != x.device:
            wanted, got = f"{list(x.shape)} on {x.device}", f"{list(added.shape)} on {added.device}"
            raise ValueError(f"added must be like x, {wanted}, got {got}")
        added = added.to(x.dtype)
    known = (x, weight) if added is None else (x, weight, added)
    if transforms_active() or x.is_complex() or not native.takes(*known):
        return norm_open(x, weight, added)
    if unobserved(*known) and all(t.is_contiguous() for t in known):
        return native.norm(x, weight, added, EPS, keep=False)[:2]
    total, y, _ = OP(x, weight, added)
    return x if added is None else total, y


def rms_norm(x: Tensor, weight: Tensor) -> Tensor:
    """y = w x / sqrt(mean(x^2) + 1e-6): `add_rms_norm` of nothing added."""
    return add_rms_norm(x, None, weight)[1]
