"""y = W x, W of blocks along its diagonal: products within the heads of an sLSTM, the fours of an mLSTM."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from recurra.ops import native
from recurra.ops.project import FEW_ROWS
from recurra.ops.quantized import Quantized, wide
from recurra.ops.registry import unobserved

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
    return block_product_open(xs, [*map(wide, weights)])


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
