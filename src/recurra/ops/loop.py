"""The reference form of every recurrence: its step, once after the other."""

from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import Tensor

from recurra.ops.masks import cuts, living, widen

S = TypeVar("S", bound=tuple[Any, ...])


def unroll(
    step: Callable[..., tuple[Tensor, S]],
    inputs: tuple[Tensor, ...],
    state: S,
    reset: Tensor | None = None,
    lengths: Tensor | None = None,
    *,
    reverse: bool = False,
) -> tuple[Tensor, S]:
    """y_t, s_t = step(x_t, ..., s_{t-1}) for inputs [B, T, ...]; the truth that every form is held to.

    A reset puts zeros for the state; time must be at least 1 (there is no output to shape otherwise).
    """
    time = inputs[0].shape[1]
    cut, alive = cuts(reset, lengths, reverse), living(lengths, time)

    def where(mask: Tensor, new: S, old: S) -> S:
        parts = [torch.where(widen(mask, n), n, o) for n, o in zip(new, old, strict=True)]
        return type(state)(*parts)

    zero = type(state)(*[torch.zeros_like(s) for s in state])
    # unbind, not x[:, t]: the gradient of an index is a tensor of full length, at every step.
    steps = list(zip(*(x.unbind(1) for x in inputs), strict=True))
    ys: list[Tensor] = []
    for t in reversed(range(time)) if reverse else range(time):
        before = state if cut is None else where(cut[:, t], zero, state)
        y, after = step(*steps[t], before)
        if alive is not None:
            y, after = y.masked_fill(~widen(alive[:, t], y), 0), where(alive[:, t], after, state)
        ys.append(y)
        state = after
    return torch.stack(ys[::-1] if reverse else ys, 1), state
