"""Each step mixed with the one before, channel by channel: the token shift of RWKV (arXiv 2305.13048).

All mixes of one input are made in one pass over it, and its gradient is summed in one pass over theirs.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from recurra.ops import native
from recurra.ops.causal_conv import conv_form, conv_open
from recurra.ops.linear import state_dtype
from recurra.ops.masks import check
from recurra.ops.registry import define, pullback, transforms_active, unobserved
from recurra.state import ConvState

__all__ = ["token_mix", "token_mix_open", "token_mix_step"]


def token_mix_open(
    x: Tensor, mixes: tuple[Tensor, ...], state: ConvState
) -> tuple[tuple[Tensor, ...], ConvState]:
    """m x_t + (1 - m) x_{t-1} for each m [D] of mixes: the definition. x [B, D], state.x [B, 1, D]."""
    wide, before = x.to(state.x.dtype), state.x[:, 0]
    ys = tuple(torch.lerp(before, wide, m.to(wide.dtype)).to(x.dtype) for m in mixes)
    return ys, ConvState(wide[:, None])


def _convolved(
    conv: Callable[..., tuple[Tensor, Tensor]], x: Tensor, mixes: Tensor, *rest: Tensor | None
) -> tuple[list[Tensor], Tensor]:
    """Each of mixes [M, D] a convolution of two taps, in this form of it; rest: state, reset, lengths."""
    done = [conv(x, torch.stack([1 - m, m], -1), None, *rest) for m in mixes]
    return [y for y, _ in done], done[0][1]


def _pulled(
    dys: Sequence[Tensor],
    dstate_n: Tensor,
    x: Tensor,
    mixes: Tensor,
    state: Tensor,
    reset: Tensor | None,
    lengths: Tensor | None,
) -> tuple[Tensor, ...]:
    """Gradients of x, mixes and state by way of plain torch: differentiable any number of times."""
    return pullback(
        lambda x, m, s: _convolved(conv_open, x, m, s, reset, lengths),
        (x, mixes, state),
        (list(dys), dstate_n),
    )


def _setup(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    ctx.save_for_backward(*inputs)


def _backward(ctx: Any, dys: Sequence[Tensor], dstate_n: Tensor) -> tuple[Tensor | None, ...]:
    return (*BACKWARD(*dys, *_missing(dys), dstate_n, *ctx.saved_tensors), None, None)


def _missing(dys: Sequence[Tensor]) -> list[None]:
    return [None] * (native.MAX_MIXES - len(dys))


def _cpu_backward(*given: Any) -> tuple[Tensor, Tensor, Tensor]:
    dys = [dy for dy in given[: native.MAX_MIXES] if dy is not None]
    return native.token_mix_backward(dys, *given[native.MAX_MIXES :])


def _fake_backward(*given: Any) -> tuple[Tensor, Tensor, Tensor]:
    x, mixes, state = given[-5:-2]
    return native.empty_as(x), mixes.new_empty(mixes.shape), state.new_empty(state.shape)


def _setup_twice(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    ctx.save_for_backward(*inputs)


def _backward_twice(ctx: Any, *cotangents: Tensor) -> tuple[Tensor | None, ...]:
    *inputs, reset, lengths = ctx.saved_tensors
    known = tuple(t for t in inputs if t is not None)
    count = len(known) - 4

    def first(*leaves: Tensor) -> tuple[Tensor, ...]:
        dstate_n, x, mixes, state = leaves[count:]
        return _pulled(leaves[:count], dstate_n, x, mixes, state, reset, lengths)

    second = pullback(first, known, cotangents)
    return (*second[:count], *_missing(second[:count]), *second[count:], None, None)


# One by one: cotangents in a list could not be mapped over.
_DYS = ", ".join(f"Tensor? dy_{i}" for i in range(native.MAX_MIXES))
_GIVEN = "Tensor x, Tensor mixes, Tensor state, Tensor? reset, Tensor? lengths"
OP = define(
    f"token_mix({_GIVEN}) -> (Tensor[], Tensor)",
    fake=lambda x, mixes, state, *_: (
        [native.empty_as(x) for _ in range(len(mixes))],
        state.new_empty(state.shape),
    ),
    setup=_setup,
    backward=_backward,
    cpu=native.token_mix,
)
BACKWARD = define(
    f"token_mix_backward({_DYS}, Tensor dstate_n, {_GIVEN}) -> (Tensor, Tensor, Tensor)",
    fake=_fake_backward,
    setup=_setup_twice,
    backward=_backward_twice,
    cpu=_cpu_backward,
)


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
    _check(x, ("batch", "time", "width"), mixes, state)
    reset, lengths = check(x.shape[0], x.shape[1], x.device, reset, lengths)
    before = _before(x, state)
    fused = len(mixes) <= native.MAX_MIXES and native.takes(x) and not transforms_active()
    form = OP if fused else partial(_convolved, conv_form(x, 2))
    ys, last = form(x, torch.stack([m.to(before.dtype) for m in mixes]), before, reset, lengths)
    return tuple(ys), ConvState(last)


def token_mix_step(
    x: Tensor, mixes: tuple[Tensor, ...], state: ConvState | None
) -> tuple[tuple[Tensor, ...], ConvState]:
    """`token_mix_open`, from zeros where state is None; where nothing watches, in one call of the kernels.

    x [B, D]. Raises ValueError that names the argument.
    """
    _check(x, ("batch", "width"), mixes, state)
    before = _before(x, state)
    known = (x, *mixes, before)
    few = len(mixes) <= native.MAX_MIXES and all(t.is_contiguous() for t in known)
    if few and unobserved(*known) and native.takes(x, *mixes):
        ys, after = native.token_mix_step(x, mixes, before)
        return ys, ConvState(after)
    return token_mix_open(x, mixes, ConvState(before))


def _before(x: Tensor, state: ConvState | None) -> Tensor:
    dtype = state_dtype(x.dtype)
    return x.new_zeros((len(x), 1, x.shape[-1]), dtype=dtype) if state is None else state.x.to(dtype)


def _check(x: Tensor, axes: tuple[str, ...], mixes: tuple[Tensor, ...], state: ConvState | None) -> None:
    # The kernel looks at addresses alone: what does not fit would be read and written beyond its end.
    if x.ndim != len(axes) or not x.is_floating_point():
        raise ValueError(f"x must be floating point [{', '.join(axes)}], got {x.dtype} {list(x.shape)}")
    for m in mixes:
        if m.shape != x.shape[-1:] or m.device != x.device:
            got = f"{list(m.shape)} on {m.device}"
            raise ValueError(f"mixes must be [width] = {list(x.shape[-1:])} on {x.device}, got {got}")
    shape = (len(x), 1, x.shape[-1])
    if state is not None and (tuple(state.x.shape) != shape or state.x.device != x.device):
        got = f"{list(state.x.shape)} on {state.x.device}"
        raise ValueError(f"state must be [batch, 1, width] = {list(shape)} on {x.device}, got {got}")
