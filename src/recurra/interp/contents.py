"""What a state holds, as numbers that may be added to: in units of one, and back into those it is kept in."""

from typing import Any

import torch
from torch import Tensor

from recurra.interp.subject import State, Subject
from recurra.state import KVState, OuterState, SLSTMState, SoftmaxState, apply

__all__ = ["contents", "moved"]

# Of e^-max; beyond it a matrix is as good as empty, and fp32 ends.
_LARGEST = 60.0


def _matrices(state: OuterState) -> list[tuple[Tensor, Tensor]]:
    """C and n; with a gate in units of s = max(|n|, e^-max), by which a query's answer is divided at most."""
    if not state.n.numel():
        return [(state.c, torch.ones((), device=state.c.device))]
    size = torch.maximum(state.n.norm(dim=-1), (-state.max).clamp(max=_LARGEST).exp())
    return [(state.c, size[..., None, None]), (state.n, size[..., None])]


def _parts(state: Any) -> list[tuple[Tensor, Tensor]]:
    """The tensors that may be added to, and the units in which they are kept.

    Stabilisers, weights of averages, normalisers of an sLSTM and integers are no contents: they stay.
    """
    if isinstance(state, KVState):
        raise ValueError("state must be of one size to be steered, that of attention grows with the text")
    if isinstance(state, SoftmaxState):
        group = state.numerator.shape[-1] // state.denominator.shape[-1]
        return [(state.numerator, state.denominator.repeat_interleave(group, -1))]
    if isinstance(state, SLSTMState):
        return [(state.h, torch.ones_like(state.n)), (state.c, state.n)]
    if isinstance(state, OuterState):
        return _matrices(state)
    if isinstance(state, Tensor):
        counts = not (state.is_floating_point() or state.is_complex())
        return [] if counts else [(state, torch.ones((), device=state.device))]
    return [part for inner in state for part in _parts(inner)]


def _real(x: Tensor) -> Tensor:
    return torch.view_as_real(x.resolve_conj()) if x.is_complex() else x


def contents(model: Subject, state: Any) -> Tensor:
    """The contents of one block's state as [B, N], in at least fp32.

    Averages are divided by their weight, the matrices of an mLSTM by their normaliser's size, cells of an
    sLSTM by theirs; 0 where nothing has been read yet. Raises ValueError for attention.
    """
    parts = [
        _real(torch.where(unit == 0, 0, x / torch.where(unit == 0, 1, unit))).flatten(1)
        for x, unit in _parts(model.named(state))
    ]
    return torch.cat([part.to(torch.promote_types(part.dtype, torch.float32)) for part in parts], -1)


def moved(model: Subject, state: State, block: int, by: Tensor) -> State:
    """The same state, in which by [N] is added to the contents of one block's; units and weights stay.

    Raises ValueError where it has another number of contents, or is of attention.
    """
    if not 0 <= block < len(state):
        raise ValueError(f"block must lie in 0..{len(state) - 1}, got {block}")
    parts = _parts(model.named(state[block]))
    sizes = [_real(x)[0].numel() for x, _ in parts]
    if by.shape != (sum(sizes),):
        raise ValueError(f"by must be [{sum(sizes)}] for the state of block {block}, got {list(by.shape)}")
    # By identity: `named` names the tensors of a state, in an order of its own.
    new = {
        id(x): _added(x, unit, piece)
        for (x, unit), piece in zip(parts, by.to(parts[0][0].device).split(sizes), strict=True)
    }
    own = apply(lambda x: new.get(id(x), x), state[block])
    return (*state[:block], own, *state[block + 1 :])


def _added(x: Tensor, unit: Tensor, piece: Tensor) -> Tensor:
    shaped = piece.view(_real(x).shape[1:])
    return (x + unit * (torch.view_as_complex(shaped) if x.is_complex() else shaped)).to(x.dtype)
