"""Cross-entropy of a linear head whose logits are never stored whole."""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn.functional import cross_entropy

from recurra.ops.activation import soft_cap
from recurra.ops.linear import state_dtype
from recurra.ops.project import project
from recurra.ops.registry import transforms_active

__all__ = ["IGNORED", "capped", "linear_cross_entropy"]

# The target of a position that counts for nothing, as in torch.
IGNORED = -100
# Logits at once: 4 MiB in fp32, or 256 rows of a large vocabulary.
_LOGITS, _ROWS = 2**20, 256


def capped(logits: Tensor, cap: float) -> Tensor:
    """cap tanh(logits / cap); cap 0: the logits."""
    return soft_cap(logits, cap) if cap else logits


def linear_cross_entropy(
    x: Tensor, weight: Tensor, targets: Tensor, cap: float = 0.0, smoothing: float = 0.0
) -> Tensor:
    """Sum over rows of -log softmax(x W^T)[target], in nats and at least fp32; the logits `capped`.

    x [N, D]; weight [V, D]; targets [N], `IGNORED` = -100 for rows that do not count. smoothing: of what is
    wanted a share that all tokens have alike (arXiv 1512.00567, section 7). Equal to
    `torch.nn.functional.cross_entropy` of all the logits, in the memory of a few rows of them: the
    gradients are made in the forward pass, chunk by chunk. Differentiable once.
    """
    if torch.is_grad_enabled() and not transforms_active():
        total: Tensor = _LinearCrossEntropy.apply(x, weight, targets, cap, smoothing)  # type: ignore[no-untyped-call]
        return total
    chunks = zip(x.split(_rows(weight)), targets.split(_rows(weight)), strict=True)
    return sum(
        (_plain(rows, weight, goals, cap, smoothing) for rows, goals in chunks),
        x.new_zeros((), dtype=state_dtype(x.dtype)),
    )


def _rows(weight: Tensor) -> int:
    return max(_ROWS, _LOGITS // weight.shape[0])


def _plain(x: Tensor, weight: Tensor, targets: Tensor, cap: float, smoothing: float) -> Tensor:
    logits = capped(project(x, weight), cap)
    wide = logits.to(state_dtype(logits.dtype))
    return cross_entropy(wide, targets, reduction="sum", ignore_index=IGNORED, label_smoothing=smoothing)


def _nats(logits: Tensor, targets: Tensor, cap: float, smoothing: float) -> tuple[Tensor, Tensor]:
    """The sum over some rows and its gradient by their logits: softmax - what is wanted, behind the cap."""
    logits = capped(logits, cap)
    counts = (targets != IGNORED)[:, None]
    index = torch.where(counts, targets[:, None], 0)
    log_p = logits.to(state_dtype(logits.dtype)).log_softmax(-1)
    wanted = (1 - smoothing) * log_p.gather(1, index)
    if smoothing:
        wanted = wanted + smoothing * log_p.mean(-1, keepdim=True)
    nats = -wanted.masked_fill(~counts, 0).sum()
    p = log_p.exp_()
    p.scatter_add_(1, index, p.new_full((1, 1), smoothing - 1).expand_as(index))
    if smoothing:
        p -= smoothing / p.shape[-1]
    if cap:
        p *= 1 - (logits / cap).square()
    return nats, p.masked_fill_(~counts, 0)


class _LinearCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, targets: Tensor, cap: float, smoothing: float) -> Tensor:
        device = x.device.type
        dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else x.dtype
        narrow, dx = weight.to(dtype), torch.empty_like(x)
        dweight = torch.zeros_like(weight, dtype=state_dtype(dtype))
        total = dweight.new_zeros(())
        for begin in range(0, len(x), _rows(weight)):
            chunk = slice(begin, begin + _rows(weight))
            rows = x[chunk].to(dtype)
            nats, dlogits = _nats(project(rows, narrow), targets[chunk], cap, smoothing)
            total += nats
            dlogits = dlogits.to(dtype)
            dx[chunk] = project(dlogits, narrow.t())
            dweight += project(dlogits.t(), rows.t())
        ctx.save_for_backward(dx, dweight.to(weight.dtype))
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor, Tensor, None, None, None]:
        dx, dweight = ctx.saved_tensors
        return dx * dy.to(dx.dtype), dweight * dy.to(dweight.dtype), None, None, None
