"""A diagonal state space: the linear recurrence of N complex states a channel, read out as one real number.

S4D (arXiv 2206.11893) and every model of its kind. Nothing with N in it is written at every step. Forms:
`diagonal_loop` (the truth), `diagonal_open` (plain torch, by way of `linear`), `diagonal_fft` (a
convolution, from a fresh start alone), `diagonal_native` (C++). The op itself knows real numbers only: a
complex [..., D, N] goes in as planes [..., N, 2, D].
"""

from functools import partial
from typing import Any

import torch
from torch import Tensor

from recurra.ops import native
from recurra.ops.linear import linear_pullback, recur, start, state_dtype
from recurra.ops.loop import unroll
from recurra.ops.masks import check, living, widen
from recurra.ops.registry import define, pullback, transforms_active, unobserved
from recurra.state import LinearState

__all__ = ["convolve", "diagonal", "diagonal_step"]


def diagonal_step(
    u: Tensor, state: LinearState, a: Tensor, b: Tensor, c: Tensor, skip: Tensor
) -> tuple[Tensor, LinearState]:
    """h = a h + b u_t, y_t = Re(sum_n c h) + skip u_t for u_t [B, D]: the definition."""
    h = a * from_planes(state.h) + b * u[..., None]
    return (_read(c, h) + skip * u).to(u.dtype), LinearState(planes(h))


def layer_step(u: Tensor, state: LinearState, parameters: Tensor, skip: Tensor) -> tuple[Tensor, LinearState]:
    """`diagonal_step` by planes [N, 3, 2, D] of a, b, c; where nothing watches, one call of the kernels."""
    # The kernel looks at addresses alone: narrower parameters would be read beyond their end.
    parameters, skip = parameters.to(state.h.dtype), skip.to(state.h.dtype)
    if native.takes(u) and unobserved(u, state.h, parameters):
        # Views: whoever records the call holds on to the memory of these.
        given = parameters.detach(), skip.detach()
        y, h = native.diagonal(u[:, None], *given, state.h, (None, None))
        return y[:, 0], LinearState(h)
    return diagonal_step(u, state, *_abc(parameters), skip)


def _read(c: Tensor, h: Tensor) -> Tensor:
    """Re(sum_n c h), without the half of a complex product that is thrown away."""
    return (h.real * c.real).sum(-1) - (h.imag * c.imag).sum(-1)


def planes(x: Tensor) -> Tensor:
    """Complex [..., D, N] as real [..., N, 2, D]."""
    return torch.stack([x.real.mT, x.imag.mT], -2)


def from_planes(x: Tensor) -> Tensor:
    """The reverse of `planes`."""
    return torch.complex(x[..., 0, :].mT.contiguous(), x[..., 1, :].mT.contiguous())


# ----------------------------------------------------------------------------------------------
# The forms: u [B, T, D], parameters [N, 3, 2, D] (a, b, c), skip [D], h_0 [B, N, 2, D]; (y, h_n) like u, h_0.


def diagonal_loop(
    u: Tensor, parameters: Tensor, skip: Tensor, h_0: Tensor, reset: Tensor | None, lengths: Tensor | None
) -> tuple[Tensor, Tensor]:
    """The step, once after the other."""
    if not u.shape[1]:
        return u.clone(), h_0.clone()
    a, b, c = _abc(parameters)
    step = partial(diagonal_step, a=a, b=b, c=c, skip=skip)
    y, state = unroll(step, (u,), LinearState(h_0), reset, lengths)
    return y, state.h


def diagonal_open(
    u: Tensor, parameters: Tensor, skip: Tensor, h_0: Tensor, reset: Tensor | None, lengths: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Plain torch: every state is written out, `linear` does the rest. Differentiable any number of times."""
    _, _, c = _abc(parameters)
    wide, h, h_n = _states(u, parameters, h_0, reset, lengths)
    y = _read(c, h) + skip * wide
    alive = living(lengths, u.shape[1])
    y = y if alive is None else y.masked_fill(~widen(alive, y), 0)
    return y.to(u.dtype), planes(h_n)


def _abc(parameters: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    a, b, c = from_planes(parameters.movedim(1, 0)).unbind(0)
    return a, b, c


def _states(
    u: Tensor, parameters: Tensor, h_0: Tensor, reset: Tensor | None, lengths: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    """u in the state's dtype, zero beyond lengths; every h [B, T, D, N]; the last one."""
    a, b, _ = _abc(parameters)
    wide, alive = u.to(h_0.dtype), living(lengths, u.shape[1])
    wide = wide if alive is None else wide.masked_fill(~widen(alive, wide), 0)
    inputs = wide[..., None] * b
    h, h_n = recur(a.expand_as(inputs), inputs, from_planes(h_0), reset, lengths, False)
    return wide, h, h_n


def diagonal_native(
    u: Tensor, parameters: Tensor, skip: Tensor, h_0: Tensor, reset: Tensor | None, lengths: Tensor | None
) -> tuple[Tensor, Tensor]:
    """The C++ loop. Raises RuntimeError where the native library is missing or can't take the input."""
    return native.diagonal(u, parameters, skip, h_0, (reset, lengths))


def convolve(u: Tensor, kernel: Tensor) -> Tensor:
    """y_t = sum_{s <= t} K_{t-s} u_s by FFT, u [B, T, D] and kernel [D, T] real, in at least fp32."""
    size = 2 * u.shape[1]
    spectrum = torch.fft.rfft(u, size, dim=1) * torch.fft.rfft(kernel, size).t()
    y: Tensor = torch.fft.irfft(spectrum, size, dim=1)
    return y[:, : u.shape[1]]


def _powers(a: Tensor, time: int) -> Tensor:
    """a^0 ... a^(time - 1), [D, N, T], by doubling."""
    powers = torch.ones_like(a)[..., None]
    while powers.shape[-1] < time:
        powers, a = torch.cat([powers, powers * a[..., None]], -1), a * a
    return powers[..., :time]


def diagonal_fft(u: Tensor, parameters: Tensor, skip: Tensor) -> tuple[Tensor, Tensor]:
    """The convolution with K_l = Re(sum_n c b a^l) (arXiv 2206.11893, section 3.2), and the last state."""
    a, b, c = _abc(parameters)
    powers, wide = _powers(a, u.shape[1]), u.to(parameters.dtype)
    kernel = torch.einsum("dn,dnt->dt", b * c, powers).real
    last = torch.einsum("btd,dnt->bdn", wide.to(a.dtype), powers.flip(-1)) * b
    return (convolve(wide, kernel) + skip * wide).to(u.dtype), planes(last)


# ----------------------------------------------------------------------------------------------
# The op.


def _plain(u: Tensor, *rest: Any) -> tuple[Tensor, Tensor]:
    y, h_n = diagonal_open(u, *rest)
    return native.lay_out(y, u), h_n.contiguous()


def _cpu(u: Tensor, *rest: Any) -> tuple[Tensor, Tensor]:
    return diagonal_native(u, *rest) if native.takes(u) else _plain(u, *rest)


def _pullback(
    dy: Tensor,
    dh_n: Tensor,
    u: Tensor,
    parameters: Tensor,
    skip: Tensor,
    h_0: Tensor,
    reset: Tensor | None,
    lengths: Tensor | None,
) -> tuple[Tensor, ...]:
    """Gradients of u, parameters, skip, h_0 in plain torch; themselves differentiable."""
    a, b, c = _abc(parameters)
    wide, h, _ = _states(u, parameters, h_0, reset, lengths)
    dy, alive = dy.to(h_0.dtype), living(lengths, u.shape[1])
    dy = dy if alive is None else dy.masked_fill(~widen(alive, dy), 0)
    dh = dy[..., None] * torch.complex(c.real, -c.imag)
    rest = (from_planes(h_0), h, reset, lengths, False)
    da, g, dh_0 = linear_pullback(dh, from_planes(dh_n), a.expand_as(h), *rest)
    db = (g * wide[..., None]).sum((0, 1))
    dc = torch.complex((h.real * dy[..., None]).sum((0, 1)), -(h.imag * dy[..., None]).sum((0, 1)))
    du = (g.real * b.real + g.imag * b.imag).sum(-1) + skip * dy
    dparameters = planes(torch.stack([da.sum((0, 1)), db, dc])).movedim(1, 0)
    return du.to(u.dtype), dparameters, (wide * dy).sum((0, 1)), planes(dh_0)


def _plain_backward(dy: Tensor, dh_n: Tensor, u: Tensor, *rest: Any) -> tuple[Tensor, ...]:
    du, *others = _pullback(dy, dh_n, u, *rest)
    return native.lay_out(du, u), *(x.contiguous() for x in others)


def _cpu_backward(
    dy: Tensor, dh_n: Tensor, u: Tensor, parameters: Tensor, skip: Tensor, h_0: Tensor, *masks: Any
) -> tuple[Tensor, ...]:
    if not native.takes(u):
        return _plain_backward(dy, dh_n, u, parameters, skip, h_0, *masks)
    return native.diagonal_backward(dy, dh_n, u, parameters, skip, h_0, masks)


def _empty(x: Tensor) -> Tensor:
    return x.new_empty(x.shape)


def _setup(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    ctx.save_for_backward(*inputs)


def _backward(ctx: Any, dy: Tensor, dh_n: Tensor) -> tuple[Tensor | None, ...]:
    return *BACKWARD(dy, dh_n, *ctx.saved_tensors), None, None


def _backward_twice(ctx: Any, *cotangents: Tensor) -> tuple[Tensor | None, ...]:
    *inputs, reset, lengths = ctx.saved_tensors
    f = partial(_pullback, reset=reset, lengths=lengths)
    return *pullback(f, tuple(inputs), cotangents), None, None


_INPUTS = "Tensor u, Tensor parameters, Tensor skip, Tensor h_0, Tensor? reset, Tensor? lengths"
OP = define(
    f"diagonal({_INPUTS}) -> (Tensor, Tensor)",
    fake=lambda u, parameters, skip, h_0, *_: (native.empty_as(u), _empty(h_0)),
    setup=_setup,
    backward=_backward,
    cpu=_cpu,
    other=_plain,
)
BACKWARD = define(
    f"diagonal_backward(Tensor dy, Tensor dh_n, {_INPUTS}) -> (Tensor, Tensor, Tensor, Tensor)",
    fake=lambda dy, dh_n, u, *rest: (native.empty_as(u), *map(_empty, rest[:3])),
    setup=_setup,
    backward=_backward_twice,
    cpu=_cpu_backward,
    other=_plain_backward,
)


def diagonal(
    u: Tensor,
    a: Tensor,
    b: Tensor,
    c: Tensor,
    skip: Tensor,
    state: LinearState | None = None,
    reset: Tensor | None = None,
    lengths: Tensor | None = None,
) -> tuple[Tensor, LinearState]:
    """h_t = a h_{t-1} + b u_t, y_t = Re(sum_n c h_t) + skip u_t, in each channel.

    u [B, T, D] real; a, b, c [D, N] complex, |a| at most 1 where rows are long; skip [D]; state.h
    [B, N, 2, D], real and imaginary parts, zeros where None; reset, lengths as in `ops.masks`. Returns y
    [B, T, D] in the dtype of u and the last state in at least fp32. Raises ValueError that names the
    argument.
    """
    for name, x in (("a", a), ("b", b), ("c", c)):
        if x.ndim != 2 or x.shape != a.shape or not x.is_complex():
            raise ValueError(f"{name} must be complex [width, states], got {x.dtype} {list(x.shape)}")
    parameters = planes(torch.stack([a, b, c])).movedim(1, 0)
    return diagonal_by_planes(u, parameters, skip, state, reset, lengths)


def diagonal_by_planes(
    u: Tensor,
    parameters: Tensor,
    skip: Tensor,
    state: LinearState | None,
    reset: Tensor | None,
    lengths: Tensor | None,
) -> tuple[Tensor, LinearState]:
    """`diagonal` of planes [N, 3, 2, D] of a, b and c."""
    width = parameters.shape[-1]
    if u.ndim != 3 or u.shape[2] != width or not u.is_floating_point():
        raise ValueError(f"u must be floating point [batch, time, {width}], got {u.dtype} {list(u.shape)}")
    if tuple(skip.shape) != (width,) or skip.is_complex():
        raise ValueError(f"skip must be real [{width}], got {skip.dtype} {list(skip.shape)}")
    reset, lengths = check(u.shape[0], u.shape[1], u.device, reset, lengths)
    real = state_dtype(u.dtype)
    h_0 = start(state, u[:, :1, None, None].expand(-1, -1, len(parameters), 2, -1))
    inputs = u, parameters.to(real), skip.to(real)
    if u.is_cpu or state is not None or reset is not None or lengths is not None or not u.shape[1]:
        form = diagonal_open if transforms_active() else OP
        y, h_n = form(*inputs, h_0, reset, lengths)
    else:  # no kernel to keep the states out of memory
        y, h_n = diagonal_fft(*inputs)
    return y, LinearState(h_n)
