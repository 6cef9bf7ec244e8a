"""Token shift: each step sees the input of the step before (RWKV, arXiv 2305.13048, section 3.1)."""

import torch
from torch import Tensor

from recurra.ops.masks import check, cuts, living, widen
from recurra.state import ShiftState

__all__ = ["token_shift", "token_shift_step"]


def token_shift_step(x: Tensor, state: ShiftState) -> tuple[Tensor, ShiftState]:
    """y_t = x_{t-1}: the definition."""
    return state.x, ShiftState(x)


def token_shift(
    x: Tensor, state: ShiftState | None = None, reset: Tensor | None = None, lengths: Tensor | None = None
) -> tuple[Tensor, ShiftState]:
    """y_t = x_{t-1}, with x_{-1} = state.x [B, D], zeros where None; x [B, T, D].

    reset and lengths as in `ops.masks`. It moves memory and computes nothing, so plain torch is its
    kernel everywhere. Raises ValueError that names the argument for a wrong shape or device.
    """
    if x.ndim != 3:
        raise ValueError(f"x must be [batch, time, width], got {list(x.shape)}")
    batch, time, width = x.shape
    first = x.new_zeros(batch, width) if state is None else state.x
    if tuple(first.shape) != (batch, width) or first.device != x.device:
        got = f"{list(first.shape)} on {first.device}"
        raise ValueError(f"state must be [batch, width] = [{batch}, {width}] on {x.device}, got {got}")
    reset, lengths = check(batch, time, x.device, reset, lengths)
    seen = torch.cat([first.to(x.dtype)[:, None], x], 1)
    y = seen[:, :-1]
    cut, alive = cuts(reset, lengths, False), living(lengths, time)
    if cut is not None:
        y = y.masked_fill(widen(cut, y), 0)
    if alive is None or lengths is None:
        return y, ShiftState(seen[:, -1])
    last = seen.gather(1, lengths[:, None, None].expand(batch, 1, width))[:, 0]
    return y.masked_fill(~widen(alive, y), 0), ShiftState(last)
