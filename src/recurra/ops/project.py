"""y = x W^T + b + added, through the fastest product at hand; the one linear map every layer goes through.

Two of torch's own products are left behind on a CPU: few rows run at a quarter of memory speed, and on
AMD processors with AVX-512 fp32 stays at half the machine's rate (csrc/product.h).
"""

import math
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import linear as torch_linear

from recurra.ops import native
from recurra.ops.quantized import Quantized
from recurra.ops.registry import define, transforms_active, unobserved

__all__ = ["product", "project"]

# No more than kPackedRows of csrc/abi.h.
FEW_ROWS = 16
IN_CACHE = 1 << 13


def product() -> str:
    """Which product serves many rows in fp32 on this machine's CPU."""
    return "recurra" if native.prefers_product() else "torch"


def few_rows(x: Tensor, weight: Tensor | Quantized, bias: Tensor | None, added: Tensor | None = None) -> bool:
    """True where the kernel for few rows can take these, which it does not check."""
    if not x.is_floating_point() or not 0 < x.numel() <= FEW_ROWS * x.shape[-1]:
        return False
    if not x.is_contiguous() or not weight.is_contiguous():
        return False
    for more in (bias, added):
        if more is not None and (more.dtype != x.dtype or not more.is_contiguous()):
            return False
    return native.takes(x, weight)


def _rows(x: Tensor) -> Tensor:
    # Not -1: an axis may be empty.
    return x.reshape(math.prod(x.shape[:-1]), x.shape[-1])


def _plain(x: Tensor, weight: Tensor, bias: Tensor | None, added: Tensor | None) -> Tensor:
    y = torch_linear(x, weight, bias)
    return y if added is None else y + added


def _cpu(x: Tensor, weight: Tensor, bias: Tensor | None, added: Tensor | None) -> Tensor:
    bias = None if bias is None else bias.contiguous()
    added = None if added is None else added.contiguous()
    if few_rows(x, weight, bias, added):
        return native.matvec(x, weight, bias, added)
    if x.numel() and weight.numel() and x.dtype == torch.float32 and native.prefers_product():
        return native.product(_rows(x), weight, bias, added).view(*x.shape[:-1], -1)
    return _plain(x, weight, bias, added)


def _setup(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    x, weight, *_ = inputs
    ctx.save_for_backward(x, weight)


def _backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
    # Products again, so that this can be differentiated as often as one likes.
    x, weight = ctx.saved_tensors
    rows = _rows(dy)
    need_x, need_weight, need_bias, need_added = ctx.needs_input_grad
    dx = project(dy, weight.t()) if need_x else None
    dweight = project(rows.t(), _rows(x).t()) if need_weight else None
    return dx, dweight, rows.sum(0) if need_bias else None, dy if need_added else None


OP = define(
    "project(Tensor x, Tensor weight, Tensor? bias, Tensor? added) -> Tensor",
    fake=lambda x, weight, bias, added: x.new_empty(*x.shape[:-1], weight.shape[0]),
    setup=_setup,
    backward=_backward,
    cpu=_cpu,
)


def _gains(x: Tensor, weight: Tensor, bias: Tensor | None, added: Tensor | None) -> bool:
    """True where this op has something faster than torch's, and autograd alone is watching."""
    if x.device.type != "cpu" or torch.is_autocast_enabled("cpu") or transforms_active():
        return False
    if any(t is not None and t.dtype != x.dtype for t in (weight, bias, added)):
        return False
    if x.dtype == torch.float32 and native.prefers_product():
        return True
    return not torch.compiler.is_compiling() and few_rows(x, weight, bias, added)


def project(
    x: Tensor, weight: Tensor | Quantized, bias: Tensor | None = None, added: Tensor | None = None
) -> Tensor:
    """y = x W^T + b + added for x [..., I], weight [O, I], bias [O], added [..., O], a residual.

    `torch.nn.functional.linear`, faster, and its sum with the residual without a pass of its own. A
    quantized weight is read as it is for few rows; for more of them each call writes it out in fp32.

    Raises ValueError that names the argument for a wrong shape or device.
    """
    if weight.ndim != 2 or x.shape[-1:] != weight.shape[1:]:
        got = f"x {list(x.shape)}, weight {list(weight.shape)}"
        raise ValueError(f"the last axis of x must be the second of weight, got {got}")
    # The kernels look at addresses alone: a bias too short would be read beyond its end.
    if bias is not None and (bias.shape != weight.shape[:1] or bias.device != x.device):
        got = f"{list(bias.shape)} on {bias.device}"
        raise ValueError(f"bias must be [{weight.shape[0]}] on {x.device}, as weight and x, got {got}")
    if weight.device != x.device:
        raise ValueError(f"weight is on {weight.device}, x on {x.device}")
    if added is not None and (added.shape != (*x.shape[:-1], len(weight)) or added.device != x.device):
        wanted, got = [*x.shape[:-1], len(weight)], f"{list(added.shape)} on {added.device}"
        raise ValueError(f"added must be {wanted} on {x.device}, as the product, got {got}")
    if isinstance(weight, Quantized):
        few = unobserved(x, weight, bias, added) and few_rows(x, weight, bias, added)
        return native.matvec(x, weight, bias, added) if few else project(x, weight.wide(), bias, added)
    # A small product for few rows stays in cache: there torch's own call is the shortest, but on a tape.
    small = weight.numel() <= IN_CACHE and x.numel() <= FEW_ROWS * x.shape[-1] and not native.recording()
    if not small and unobserved(x, weight, bias, added) and few_rows(x, weight, bias, added):
        return native.matvec(x, weight, bias, added)
    if not small and _gains(x, weight, bias, added):
        y: Tensor = OP(x, weight, bias, added)
        return y
    return _plain(x, weight, bias, added)
