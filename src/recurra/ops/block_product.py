"""y = W x, W of blocks along its diagonal: products within the heads of an sLSTM, the fours of an mLSTM."""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from recurra.ops import native
from recurra.ops.project import FEW_ROWS
from recurra.ops.quantized import Quantized, wide
from recurra.ops.registry import define, pullback, transforms_active, unobserved

__all__ = ["block_product", "block_product_open"]

# Channels of the least product that is not all overhead.
_WIDE = 64


def block_product_open(xs: Sequence[Tensor], weights: Sequence[Tensor]) -> Tensor:
    """Plain torch: narrow blocks go into wider ones, with zeros between them. Differentiable at will."""
    parts = torch.cat([_products(x, _joined(w)) for x, w in zip(xs, weights, strict=True)], 1)
    return parts.reshape(*xs[0].shape[:-1], math.prod(parts.shape[1:]))


def _products(x: Tensor, weight: Tensor) -> Tensor:
    """[rows, P, N, O] of x [..., N I] and weight [P, N, O, I]: in each block one product for all P."""
    blocks, inputs = weight.shape[1], weight.shape[3]
    rows = x.reshape(-1, blocks, inputs).transpose(0, 1)
    products: Tensor = rows @ weight.transpose(0, 1).flatten(1, 2).mT  # [N, rows, P O]
    y: Tensor = products.unflatten(-1, (len(weight), -1))
    return y.permute(1, 2, 0, 3)


def _joined(weight: Tensor) -> Tensor:
    """As few and large blocks as come to no more than `_WIDE` inputs each."""
    blocks, inputs = weight.shape[1], weight.shape[3]
    size = next(n for n in range(max(1, _WIDE // inputs), 0, -1) if blocks % n == 0)
    if size == 1:
        return weight
    groups = weight.unflatten(1, (-1, size))
    apart = torch.eye(size, dtype=weight.dtype, device=weight.device)
    return torch.einsum("pmboi,bc->pmboci", groups, apart).flatten(4, 5).flatten(2, 3)


# ----------------------------------------------------------------------------------------------
# The op: blocks of four channels, for which there is a kernel. Lists in, one tensor out.


def _fake(xs: Sequence[Tensor], weights: Sequence[Tensor]) -> Tensor:
    return xs[0].new_empty(*xs[0].shape[:-1], sum(w.numel() // 4 for w in weights))


def _setup(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    xs, weights = inputs
    ctx.save_for_backward(*xs, *weights)


def _backward(ctx: Any, dy: Tensor) -> tuple[list[Tensor], list[Tensor]]:
    given = ctx.saved_tensors
    half = len(given) // 2
    grads = BACKWARD(dy, given[:half], given[half:])
    return grads[:half], grads[half:]


def _setup_twice(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    dy, xs, weights = inputs
    ctx.save_for_backward(dy, *xs, *weights)


def _backward_twice(ctx: Any, cotangents: Sequence[Tensor]) -> tuple[Tensor, list[Tensor], list[Tensor]]:
    given = ctx.saved_tensors
    half = len(given) // 2

    def f(*leaves: Tensor) -> Tensor:
        return block_product_open(leaves[:half], leaves[half:])

    def first(dy: Tensor, *leaves: Tensor) -> tuple[Tensor, ...]:
        return pullback(f, leaves, dy)

    ddy, *second = pullback(first, given, tuple(cotangents))
    return ddy, second[:half], second[half:]


OP = define(
    "fours(Tensor[] xs, Tensor[] weights) -> Tensor",
    fake=_fake,
    setup=_setup,
    backward=_backward,
    cpu=native.fours,
)
BACKWARD = define(
    "fours_backward(Tensor dy, Tensor[] xs, Tensor[] weights) -> Tensor[]",
    fake=lambda dy, xs, weights: [x.new_empty(x.shape) for x in (*xs, *weights)],
    setup=_setup_twice,
    backward=_backward_twice,
    cpu=native.fours_backward,
)


def _fours(xs: Sequence[Tensor], weights: Sequence[Tensor]) -> bool:
    """True where the op takes these, which may be on autograd's tape."""
    if weights[0].shape[2:] != (4, 4) or not xs[0].numel() or transforms_active():
        return False
    return native.takes(*xs, *weights) and not xs[0].is_complex()


def _cast(x: Tensor, weight: Tensor) -> Tensor:
    """weight, under autocast as what a product before this one has given."""
    return weight.to(x.dtype) if torch.is_autocast_enabled("cpu") and x.dtype == torch.bfloat16 else weight


def block_product(xs: Sequence[Tensor], weights: Sequence[Tensor | Quantized]) -> Tensor:
    """W x of each x and each W that stands with it, side by side; block n of W sees the n-th I channels of x.

    xs [..., N I] of one shape; weights [P, N, O, I], for each x P matrices of N blocks, alike but for P; y
    [..., N O times all P]. Raises ValueError that names the argument.
    """
    _check(xs, weights)
    x = xs[0]
    few = 0 < math.prod(x.shape[:-1]) <= FEW_ROWS and all(w.is_contiguous() and w.numel() for w in weights)
    if few and unobserved(*xs, *weights) and native.takes(*xs, *weights):
        return native.block_product(xs, weights)
    known = [_cast(x, wide(w)) for w in weights]
    if _fours(xs, known):
        made: Tensor = OP(xs, known)
        return made
    return block_product_open(xs, known)


def _check(xs: Sequence[Tensor], weights: Sequence[Tensor | Quantized]) -> None:
    # The kernel looks at addresses alone: what does not fit would be read and written beyond its end.
    if not xs or len(xs) != len(weights):
        raise ValueError(f"weights must be as many as xs, got {len(weights)} and {len(xs)}")
    shape, sizes, device = xs[0].shape, weights[0].shape[1:], xs[0].device
    if len(sizes) != 3 or not sizes[2]:
        raise ValueError(
            f"weights must be [parts, blocks, outputs, inputs > 0], got {list(weights[0].shape)}"
        )
    for x, w in zip(xs, weights, strict=True):
        if w.ndim != 4 or w.shape[1:] != sizes or w.device != device:
            got = f"{list(w.shape)} on {w.device}"
            raise ValueError(f"weights must be [parts] and {list(sizes)} on {device}, all of them, got {got}")
        if x.shape != shape or x.shape[-1:] != (sizes[0] * sizes[2],) or x.device != device:
            got = f"{list(x.shape)} on {x.device}"
            raise ValueError(f"xs must be [..., {sizes[0] * sizes[2]}] on {device}, all alike, got {got}")
