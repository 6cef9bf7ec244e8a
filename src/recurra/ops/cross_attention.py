"""Softmax attention to all of another sequence: no order between queries and keys."""

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from recurra.ops import native
from recurra.ops.masks import check, living
from recurra.ops.registry import unobserved

__all__ = ["cross_attention", "cross_attention_step", "cross_weights"]


def _alive(k: Tensor, lengths: Tensor | None) -> Tensor | None:
    """[B, S] bool: keys that may be read."""
    _, lengths = check(k.shape[0], k.shape[1], k.device, None, lengths)
    return living(lengths, k.shape[1])


def _check(q: Tensor, k: Tensor) -> None:
    batch, _, *head = q.shape
    if k.ndim != 4 or (k.shape[0], *k.shape[2:]) != (batch, *head) or not k.shape[1]:
        raise ValueError(f"k must be [{batch}, at least 1, {', '.join(map(str, head))}], got {list(k.shape)}")


def cross_attention(q: Tensor, k: Tensor, v: Tensor, lengths: Tensor | None = None) -> Tensor:
    """y_t = sum_s p_ts v_s, p_t = softmax over s < lengths of <q_t, k_s> / sqrt(C), in each head.

    arXiv 1706.03762, equation 1. q [B, T, H, C]; k, v [B, S, H, C]; lengths [B] of the keys, None: all. A
    row without keys reads zeros. Raises ValueError that names the argument.
    """
    _check(q, k)
    alive = _alive(k, lengths)
    mask = None
    if alive is not None:
        # Weights of zero do not keep out what is not finite.
        k, v = (x.masked_fill(~alive[..., None, None], 0) for x in (k, v))
        some = alive | ~alive.any(1, keepdim=True)
        mask = some[:, None, None]
    q, k, v = (x.transpose(1, 2) for x in (q, k, v))
    return scaled_dot_product_attention(q, k, v, attn_mask=mask).transpose(1, 2)


def cross_attention_step(q: Tensor, memory: Tensor, lengths: Tensor) -> Tensor:
    """`cross_attention` of the few queries of a step, to a memory that many steps read: y [B, T, H, C].

    q [B, T, H, C]; memory [B, 2, H, S, C], keys and values; lengths [B], at least 1. What lies beyond those
    is to be finite. Raises ValueError that names the argument.
    """
    _check_step(q, memory, lengths)
    if unobserved(q, memory, lengths) and _fits(q, memory, lengths):
        return native.cross_attention(q.contiguous(), memory, lengths)
    return step_open(q, memory, lengths)


def step_open(q: Tensor, memory: Tensor, lengths: Tensor) -> Tensor:
    """Plain torch on any device, differentiable."""
    k, v = memory.unbind(1)
    mask = (torch.arange(memory.shape[3], device=memory.device) < lengths[:, None])[:, None, None]
    return scaled_dot_product_attention(q.transpose(1, 2), k, v, attn_mask=mask).transpose(1, 2)


def _check_step(q: Tensor, memory: Tensor, lengths: Tensor) -> None:
    batch, _, heads, channels = q.shape
    if memory.ndim != 5 or (*memory.shape[:3], memory.shape[4]) != (batch, 2, heads, channels):
        raise ValueError(f"memory must be [{batch}, 2, {heads}, steps, {channels}], got {list(memory.shape)}")
    if lengths.shape != (batch,):
        raise ValueError(f"lengths must be [{batch}], got {list(lengths.shape)}")


def _fits(q: Tensor, memory: Tensor, lengths: Tensor) -> bool:
    """True where the kernel can take them."""
    counts = lengths.is_cpu and lengths.dtype == torch.int64 and lengths.is_contiguous()
    return counts and q.is_floating_point() and memory.is_contiguous() and native.takes(q, memory)


def cross_weights(q: Tensor, k: Tensor, lengths: Tensor | None = None) -> Tensor:
    """The p of `cross_attention`, [B, H, T, S]: what is drawn."""
    _check(q, k)
    scores = torch.einsum("bthc,bshc->bhts", q, k) / q.shape[-1] ** 0.5
    alive = _alive(k, lengths)
    if alive is not None:
        scores = scores.masked_fill(~alive[:, None, None], -torch.inf)
    weights: Tensor = scores.softmax(-1).nan_to_num()
    return weights
