"""Each step mixed with the one before, channel by channel: the token shift of RWKV (arXiv 2305.13048)."""

import torch
from torch import Tensor

from recurra.ops import native
from recurra.ops.causal_conv import causal_conv
from recurra.ops.linear import state_dtype
from recurra.ops.registry import unobserved
from recurra.state import ConvState

__all__ = ["token_mix", "token_mix_open", "token_mix_step"]


def token_mix_open(
    x: Tensor, mixes: tuple[Tensor, ...], state: ConvState
) -> tuple[tuple[Tensor, ...], ConvState]:
    """m x_t + (1 - m) x_{t-1} for each m [D] of mixes: the definition. x [B, D], state.x [B, 1, D]."""
    wide, before = x.to(state.x.dtype), state.x[:, 0]
    ys = tuple(torch.lerp(before, wide, m.to(wide.dtype)).to(x.dtype) for m in mixes)
    return ys, ConvState(wide[:, None])


def token_mix(
    x: Tensor,
    mixes: tuple[Tensor, ...],
    state: ConvState | None = None,
    reset: Tensor | None = None,
    lengths: Tensor | None = None,
) -> tuple[tuple[Tensor, ...], ConvState]:
    """y_t = m x_t + (1 - m) x_{t-1} for each m [D] of mixes: a convolution of two taps.

    x and each y [B, T, D]; state.x [B, 1, D], the input before x_0, zeros where None; reset, lengths as in
    `ops.masks`. Raises ValueError that names the argument.
    """
    wide = [mix.to(state_dtype(mix.dtype)) for mix in mixes]
    done = [causal_conv(x, torch.stack([1 - m, m], -1), None, state, reset, lengths) for m in wide]
    return tuple(y for y, _ in done), done[0][1]


def token_mix_step(
    x: Tensor, mixes: tuple[Tensor, ...], state: ConvState | None
) -> tuple[tuple[Tensor, ...], ConvState]:
    """`token_mix_open`, from zeros where state is None; where nothing watches, in one call of the kernels.

    x [B, D]. Raises ValueError that names the argument.
    """
    _check(x, mixes, state)
    dtype = state_dtype(x.dtype)
    before = x.new_zeros((len(x), 1, x.shape[1]), dtype=dtype) if state is None else state.x.to(dtype)
    known = (x, *mixes, before)
    few = len(mixes) <= native.MAX_MIXES and all(t.is_contiguous() for t in known)
    if few and unobserved(*known) and native.takes(x, *mixes):
        ys, after = native.token_mix_step(x, mixes, before)
        return ys, ConvState(after)
    return token_mix_open(x, mixes, ConvState(before))


def _check(x: Tensor, mixes: tuple[Tensor, ...], state: ConvState | None) -> None:
    # The kernel looks at addresses alone: what does not fit would be read and written beyond its end.
    if x.ndim != 2 or not x.is_floating_point():
        raise ValueError(f"x must be floating point [batch, width], got {x.dtype} {list(x.shape)}")
    for m in mixes:
        if m.shape != x.shape[1:] or m.device != x.device:
            got = f"{list(m.shape)} on {m.device}"
            raise ValueError(f"mixes must be [width] = {list(x.shape[1:])} on {x.device}, got {got}")
    shape = (len(x), 1, x.shape[1])
    if state is not None and (tuple(state.x.shape) != shape or state.x.device != x.device):
        got = f"{list(state.x.shape)} on {state.x.device}"
        raise ValueError(f"state must be [batch, 1, width] = {list(shape)} on {x.device}, got {got}")
