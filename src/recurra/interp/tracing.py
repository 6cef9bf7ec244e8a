"""Causal tracing in time: the state of one run in the place of another's, block by block."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from recurra.interp.places import states_at, subject
from recurra.interp.subject import State

__all__ = ["graft", "trace"]


def graft(state: State, donor: State, blocks: Iterable[int]) -> State:
    """The same state, in which these blocks have the donor's."""
    chosen = set(blocks)
    if wrong := [i for i in chosen if not 0 <= i < len(state)]:
        raise ValueError(f"blocks must lie in 0..{len(state) - 1}, got {wrong[0]}")
    return tuple(new if i in chosen else old for i, (old, new) in enumerate(zip(state, donor, strict=True)))


@torch.no_grad()
def trace(
    model: Any,
    tokens: Tensor,
    donor: Tensor,
    positions: Sequence[int],
    metric: Callable[[Tensor], Tensor],
) -> Tensor:
    """metric(logits [B, V]) -> [B] at the end of tokens [B, T], [blocks, positions, B], where after each
    position one block goes on from the state that it has after that of donor [B, T].

    Activation patching (arXiv 2202.05262, section 2), of states and in time: tokens may differ from donor's
    in one word, and what comes back says where the difference is kept. Raises ValueError for a position that
    is not in 0..T-2.
    """
    if donor.shape != tokens.shape:
        raise ValueError(f"donor must be like tokens, {list(tokens.shape)}, got {list(donor.shape)}")
    last = tokens.shape[1] - 2
    if wrong := [p for p in positions if not 0 <= p <= last]:
        raise ValueError(f"positions must lie in 0..{last}, got {wrong[0]}")
    whole, rows = subject(model), list[Tensor]()
    pairs = zip(states_at(whole, tokens, positions), states_at(whole, donor, positions), strict=True)
    for p, (own, other) in zip(positions, pairs, strict=True):
        ends = [
            whole.read(tokens[:, p + 1 :], graft(own, other, [block]))[0][:, -1]
            for block in range(len(whole.blocks))
        ]
        rows.append(torch.stack([metric(logits) for logits in ends]))
    return torch.stack(rows, 1)
