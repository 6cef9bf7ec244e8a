"""Causal depthwise convolution over time, with state, reset and lengths.

The short filter in front of minRNN, Mamba and xLSTM blocks. torch's conv1d of width 4 costs as much as
the input's matrix product; read and written once, it is almost free.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from recurra.ops import kernels, native
from recurra.ops.linear import state_dtype
from recurra.ops.masks import check, living, widen
from recurra.ops.registry import define, pullback, transforms_active, unobserved
from recurra.state import ConvState

__all__ = ["causal_conv", "causal_conv_step", "conv_step"]


def causal_conv_step(
    x: Tensor, state: ConvState, weight: Tensor, bias: Tensor | None = None
) -> tuple[Tensor, ConvState]:
    """y_t = bias + sum_j w_j x_{t-K+1+j}: the definition. x [B, D], weight [D, K], state.x [B, K-1, D]."""
    seen = torch.cat([state.x, x[:, None].to(state.x.dtype)], 1)
    y = (seen * weight.t().to(seen.dtype)).sum(1)
    y = y if bias is None else y + bias
    return y.to(x.dtype), ConvState(seen[:, 1:])


def conv_open(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    state: Tensor,
    reset: Tensor | None,
    lengths: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """Plain torch on any device: K shifted products. Differentiable any number of times."""
    time, history = x.shape[1], weight.shape[1] - 1
    seen = torch.cat([state, x.to(state.dtype)], 1)
    alive = living(lengths, time)
    # Steps between the same two cuts have one number; the state belongs to what comes before the first.
    cut = torch.zeros_like(seen[..., 0], dtype=torch.int64)
    if reset is not None:
        now = reset if alive is None else reset & alive
        cut = torch.cat([cut[:, :history], now.to(cut.dtype)], 1)
    segment = cut.cumsum(1)

    def tap(j: int) -> Tensor:
        same = segment[:, j : j + time] == segment[:, history:]
        return torch.where(widen(same, x), seen[:, j : j + time], 0) * weight[:, j].to(seen.dtype)

    y = sum((tap(j) for j in range(history)), tap(history))
    y = y if bias is None else y + bias.to(y.dtype)
    if alive is not None:
        y = y.masked_fill(~widen(alive, y), 0)
    if not history:
        return y.to(x.dtype), state.clone()
    ends = torch.full_like(cut[:, 0], time) if lengths is None else lengths
    index = ends[:, None] + torch.arange(history, device=x.device)
    same = segment.gather(1, index) == segment.gather(1, (ends[:, None] + history - 1).clamp(min=0))
    kept = seen.gather(1, index[..., None].expand(-1, -1, x.shape[2]))
    return y.to(x.dtype), torch.where(widen(same, kept), kept, 0)


def conv_native(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    state: Tensor,
    reset: Tensor | None,
    lengths: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """The C++ loop. Raises RuntimeError where the native library is missing or can't take the input."""
    return native.conv(x, weight, bias, state, reset, lengths)


def conv_triton(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    state: Tensor,
    reset: Tensor | None,
    lengths: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """The Triton kernel, for inputs on a GPU."""
    y, state_n = kernels.conv(x, weight, bias, state, reset, lengths)
    return y, state_n


def _backward_by(
    library: Any,
    dy: Tensor,
    dstate_n: Tensor,
    x: Tensor,
    weight: Tensor,
    state: Tensor,
    reset: Tensor | None,
    lengths: Tensor | None,
) -> tuple[Tensor, ...]:
    gradients: tuple[Tensor, ...] = library.conv_backward(dy, dstate_n, x, weight, state, reset, lengths)
    return gradients


def _setup(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    x, weight, bias, state, reset, lengths = inputs
    ctx.save_for_backward(x, weight, state, reset, lengths)
    ctx.bias_dtype = None if bias is None else bias.dtype


def _backward(ctx: Any, dy: Tensor, dstate_n: Tensor) -> tuple[Tensor | None, ...]:
    dx, dweight, dbias, dstate = BACKWARD(dy, dstate_n, *ctx.saved_tensors)
    return dx, dweight, None if ctx.bias_dtype is None else dbias.to(ctx.bias_dtype), dstate, None, None


def _setup_twice(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    ctx.save_for_backward(*inputs)


def _backward_twice(ctx: Any, *cotangents: Tensor) -> tuple[Tensor | None, ...]:
    *inputs, reset, lengths = ctx.saved_tensors

    def first(dy: Tensor, dstate_n: Tensor, x: Tensor, weight: Tensor, state: Tensor) -> tuple[Tensor, ...]:
        dx, dweight, dstate = pullback(
            lambda x, w, s: conv_open(x, w, None, s, reset, lengths), (x, weight, state), (dy, dstate_n)
        )
        alive = living(lengths, dy.shape[1])
        rows = dy if alive is None else dy * widen(alive, dy)
        return dx, dweight, rows.sum((0, 1)).to(weight.dtype), dstate

    return (*pullback(first, tuple(inputs), cotangents), None, None)


_MASKS = "Tensor? reset, Tensor? lengths"
OP = define(
    f"causal_conv(Tensor x, Tensor weight, Tensor? bias, Tensor state, {_MASKS}) -> (Tensor, Tensor)",
    fake=lambda x, weight, bias, state, *_: (native.empty_as(x), state.new_empty(state.shape)),
    setup=_setup,
    backward=_backward,
    cpu=conv_native,
    cuda=conv_triton,
)
BACKWARD = define(
    f"causal_conv_backward(Tensor dy, Tensor dstate_n, Tensor x, Tensor weight, Tensor state, {_MASKS})"
    " -> (Tensor, Tensor, Tensor, Tensor)",
    fake=lambda dy, dstate_n, x, weight, state, *_: (
        native.empty_as(x),
        weight.new_empty(weight.shape),
        weight.new_empty(weight.shape[0]),
        state.new_empty(state.shape),
    ),
    setup=_setup_twice,
    backward=_backward_twice,
    cpu=partial(_backward_by, native),
    cuda=partial(_backward_by, kernels),
)


def conv_form(x: Tensor, taps: int) -> Callable[..., tuple[Tensor, Tensor]]:
    """The op where it serves x, else `conv_open`; both take x, weight, bias, state, reset, lengths."""
    known = taps <= native.MAX_TAPS and (native.takes(x) or kernels.takes(x))
    form: Callable[..., tuple[Tensor, Tensor]] = OP if known and not transforms_active() else conv_open
    return form


def _check(x: Tensor, axes: tuple[str, ...], weight: Tensor, bias: Tensor | None) -> None:
    if x.ndim != len(axes) or not x.is_floating_point():
        raise ValueError(f"x must be floating point [{', '.join(axes)}], got {x.dtype} {list(x.shape)}")
    width = x.shape[-1]
    if weight.ndim != 2 or weight.shape[0] != width or not weight.shape[1]:
        raise ValueError(f"weight must be [width, taps] = [{width}, >= 1], got {list(weight.shape)}")
    if bias is not None and tuple(bias.shape) != (width,):
        raise ValueError(f"bias must be [width] = [{width}], got {list(bias.shape)}")
    for name, tensor in (("weight", weight), ("bias", bias)):
        if tensor is not None and tensor.device != x.device:
            raise ValueError(f"{name} is on {tensor.device}, x on {x.device}")
        if tensor is not None and not tensor.is_floating_point():
            raise ValueError(f"{name} must be floating point, got {tensor.dtype}")


def _fits(state: ConvState, x: Tensor, taps: int) -> None:
    shape = (x.shape[0], taps - 1, x.shape[-1])
    if tuple(state.x.shape) != shape or state.x.device != x.device:
        got = f"{list(state.x.shape)} on {state.x.device}"
        raise ValueError(f"state must be [batch, taps - 1, width] = {list(shape)} on {x.device}, got {got}")


def _start(state: ConvState | None, x: Tensor, taps: int) -> Tensor:
    dtype = state_dtype(x.dtype)
    if state is None:
        return x.new_zeros((x.shape[0], taps - 1, x.shape[2]), dtype=dtype)
    _fits(state, x, taps)
    return state.x.to(dtype)


def causal_conv(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    state: ConvState | None = None,
    reset: Tensor | None = None,
    lengths: Tensor | None = None,
) -> tuple[Tensor, ConvState]:
    """y_t = bias + sum_{j<K} w_j x_{t-K+1+j}, each channel by itself; weight[:, K-1] meets x_t.

    x [B, T, D]; weight [D, K]; bias [D]; state.x [B, K-1, D], the inputs before x_0, zeros where None;
    reset, lengths as in `ops.masks`: no tap reaches across a reset. Returns y [B, T, D] and the last
    K-1 inputs of each row. Raises ValueError that names the argument for a wrong shape or device.
    """
    _check(x, ("batch", "time", "width"), weight, bias)
    reset, lengths = check(x.shape[0], x.shape[1], x.device, reset, lengths)
    taps = weight.shape[1]
    y, state_n = conv_form(x, taps)(x, weight, bias, _start(state, x, taps), reset, lengths)
    return y, ConvState(state_n)


def conv_step(x: Tensor, state: ConvState, weight: Tensor, bias: Tensor) -> tuple[Tensor, ConvState]:
    """`causal_conv_step`; where nothing watches, in one call of the kernels, which copy a weight [D, K]
    that is not the turned view of a contiguous [K, D].

    Raises ValueError that names the argument for a wrong shape or device.
    """
    # The kernel looks at addresses alone: what does not fit would be read and written beyond its end.
    _check(x, ("batch", "width"), weight, bias)
    _fits(state, x, weight.shape[1])
    kept = state.x.dtype == native.STATES.get(x.dtype)
    if kept and unobserved(x, weight, bias, state.x) and native.takes(x, weight, bias):
        y, state_n = native.conv_step(x, weight, bias, state.x)
        return y, ConvState(state_n)
    return causal_conv_step(x, state, weight, bias)
