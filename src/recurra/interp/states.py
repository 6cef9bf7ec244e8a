"""States as vectors: without the units in which recurrences keep them, to compare and to map them."""

from typing import Any

import torch
from torch import Tensor

from recurra.interp.places import subject
from recurra.interp.subject import State
from recurra.state import KVState, OuterState, SLSTMState, SoftmaxState

__all__ = ["LIMIT", "distance", "features", "sketched", "vector"]

# Numbers of a state that a map of it has to read, at most.
LIMIT = 4096


def _quotient(x: Tensor, size: Tensor) -> Tensor:
    """x / size, zero where nothing has been read yet."""
    return torch.where(size == 0, 0, x / torch.where(size == 0, 1, size))


def _log(size: Tensor, units: Tensor) -> Tensor:
    """log(size e^units), zero where nothing has been read yet."""
    return torch.where(size == 0, 0, torch.where(size == 0, 1, size).log() + units)


def _average(state: SoftmaxState) -> list[Tensor]:
    """The averages, and the logarithm of their weight."""
    group = state.numerator.shape[-1] // state.denominator.shape[-1]
    weight = state.denominator.repeat_interleave(group, -1)
    return [_quotient(state.numerator, weight), _log(state.denominator, state.max)]


def _cell(state: SLSTMState) -> list[Tensor]:
    """h, what h is gated from, and the logarithm of its weight."""
    return [state.h, _quotient(state.c, state.n), _log(state.n, state.m)]


def _matrices(state: OuterState) -> list[Tensor]:
    """C, with a gate C / s, n / s and log s of s = max(|n|, 1), all in units of one."""
    if not state.n.numel():
        return [state.c]
    size = torch.maximum(state.n.norm(dim=-1), (-state.max).exp())
    return [state.c / size[..., None, None], state.n / size[..., None], size.log() + state.max]


def _parts(state: Any) -> list[Tensor]:
    if isinstance(state, KVState):
        raise ValueError("state must be of one size, that of attention grows with the text")
    if isinstance(state, SoftmaxState):
        return _average(state)
    if isinstance(state, SLSTMState):
        return _cell(state)
    if isinstance(state, OuterState):
        return _matrices(state)
    if isinstance(state, Tensor):
        return [torch.view_as_real(state.resolve_conj()) if state.is_complex() else state]
    return [part for inner in state for part in _parts(inner)]


def vector(state: Any) -> Tensor:
    """The state of one block as [B, N], in at least fp32: each part flattened, one after the other.

    What is kept in units of e^max (averages, the matrices of an mLSTM, the cells of an sLSTM) is divided by
    its weight, whose logarithm stands beside it. Raises ValueError for attention, whose state grows.
    """
    parts = [part.flatten(1) for part in _parts(state)]
    return torch.cat([part.to(torch.promote_types(part.dtype, torch.float32)) for part in parts], -1)


def features(model: Any, state: State) -> list[Tensor]:
    """`vector` of each block's state, also where the model is one of transformers."""
    named = subject(model).named
    return [vector(named(part)) for part in state]


def sketched(x: Tensor, limit: int = LIMIT) -> Tensor:
    """x [..., N] as [..., limit] where N is more: each number is added, with a drawn sign, to one drawn sum.

    That is linear, the same at every call, and keeps inner products in the mean (arXiv 0902.2206).
    """
    size = x.shape[-1]
    if size <= limit:
        return x
    draw = torch.Generator().manual_seed(size)
    to = torch.randint(limit, (size,), generator=draw).to(x.device)
    sign = (torch.randint(2, (size,), generator=draw) * 2 - 1).to(x)
    return x.new_zeros(*x.shape[:-1], limit).index_add_(-1, to, x * sign)


def distance(model: Any, one: State, other: State) -> Tensor:
    """|u - v| / sqrt((|u|^2 + |v|^2) / 2) of the vectors u, v of two states, [blocks, B]: 0 where they are
    equal, sqrt(2) where they have nothing in common, at most 2."""
    rows = []
    for u, v in zip(features(model, one), features(model, other), strict=True):
        size = ((u.square() + v.square()).sum(-1) / 2).sqrt()
        rows.append(_quotient((u - v).norm(dim=-1), size))
    return torch.stack(rows)
