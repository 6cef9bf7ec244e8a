"""A state space whose matrix is diagonal plus low rank (S4): A = diag(poles) - p p*, one for each channel.

arXiv 2111.00396. Vectors stand for whole conjugate pairs, of which one half is kept: a product over states
is twice the real part of the half's. Forms: `dplr_loop` (the truth), `dplr_native` (C++, which takes the
same steps), `dplr_chunked` (matrix products over chunks of time; any state, any lengths), `dplr_convolution`
(the paper's: a Cauchy kernel and an FFT, from a fresh start alone). The op itself knows real numbers only:
its system and its state are planes, as in `ops.diagonal`.
"""

from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import pad

from recurra.ops import native
from recurra.ops.diagonal import convolve, from_planes, planes
from recurra.ops.linear import start
from recurra.ops.loop import unroll
from recurra.ops.masks import check, living, widen
from recurra.ops.registry import define, pullback, transforms_active, uncast, unobserved
from recurra.state import LinearState

__all__ = ["Continuous", "Discrete", "discretise", "dplr", "dplr_step", "layer_step", "system_planes"]

# Steps whose Krylov vectors are written out; a power of two.
CHUNK = 64


class Continuous(NamedTuple):
    """h' = (diag(poles) - p p*) h + b u, y = c h: dt [D] real, the rest [D, N] complex."""

    dt: Tensor
    poles: Tensor
    p: Tensor
    b: Tensor
    c: Tensor


class Discrete(NamedTuple):
    """h_t = a h_{t-1} - q 2 Re(sum_n m h_{t-1}) + b u_t, y = 2 Re(sum_n c h): [D, N] complex."""

    a: Tensor
    b: Tensor
    c: Tensor
    q: Tensor
    m: Tensor


def _pairs(x: Tensor, y: Tensor) -> Tensor:
    """sum over all states of x y, [..., D]: twice the real part over the halves."""
    return 2 * (x.real * y.real - x.imag * y.imag).sum(-1)


def _mirror(x: Tensor) -> Tensor:
    # Not x.conj(), a view of which some code sees only the data.
    return torch.complex(x.real, -x.imag)


def discretise(s: Continuous) -> Discrete:
    """The bilinear rule, exactly: (1 - dt A / 2)^-1 (1 + dt A / 2) and (1 - dt A / 2)^-1 dt b.

    arXiv 2111.00396, equation 3, the inverse by Woodbury's identity (appendix C.2): of order N, not N^3.
    """
    half = s.dt[:, None] / 2
    inverse = 1 / (1 - half * s.poles)
    a, q, p = (1 + half * s.poles) * inverse, inverse * s.p, _mirror(s.p)
    weight = half / (1 + half * _pairs(p, q)[:, None])
    m = (half - weight * half * _pairs(p, q)[:, None]) * p + weight * p * a
    entered = inverse * s.b
    b = 2 * half * (entered - weight * _pairs(p, entered)[:, None] * q)
    return Discrete(a, b, s.c, q, m)


def dplr_step(u: Tensor, state: LinearState, s: Discrete, skip: Tensor) -> tuple[Tensor, LinearState]:
    """y_t [B, D] and h_t from u_t [B, D]: the definition."""
    h = s.a * state.h - s.q * _pairs(s.m, state.h)[..., None] + s.b * u[..., None]
    return (_pairs(s.c, h) + skip * u).to(u.dtype), LinearState(h)


def system_planes(s: Discrete) -> Tensor:
    """[N, 5, 2, D]: a, b, 2 c, q, 2 m, the factors of two with what is read."""
    return planes(torch.stack([s.a, s.b, 2 * s.c, s.q, 2 * s.m])).movedim(1, 0).contiguous()


def _system(parameters: Tensor) -> Discrete:
    """The reverse of `system_planes`."""
    a, b, c, q, m = from_planes(parameters.movedim(1, 0)).unbind(0)
    return Discrete(a, b, c / 2, q, m / 2)


def layer_step(u: Tensor, state: LinearState, parameters: Tensor, skip: Tensor) -> tuple[Tensor, LinearState]:
    """`dplr_step` by planes; where nothing watches, one call of the kernels."""
    # The kernel looks at addresses alone: narrower parameters would be read beyond their end.
    parameters, skip = parameters.to(state.h.dtype), skip.to(state.h.dtype)
    if native.takes(u) and unobserved(u, state.h, parameters):
        # Views: whoever records the call holds on to the memory of these.
        given = parameters.detach(), skip.detach()
        y, h = native.diagonal(u[:, None], *given, state.h, (None, None))
        return y[:, 0], LinearState(h)
    y, (last,) = dplr_step(u, LinearState(from_planes(state.h)), _system(parameters), skip)
    return y, LinearState(planes(last))


# ----------------------------------------------------------------------------------------------
# The forms: u [B, T, D], h_0 [B, D, N]; (y, h_n).


def dplr_loop(
    u: Tensor, s: Discrete, skip: Tensor, h_0: Tensor, reset: Tensor | None, lengths: Tensor | None
) -> tuple[Tensor, Tensor]:
    """The step, once after the other."""
    if not u.shape[1]:
        return u.clone(), h_0.clone()
    y, state = unroll(partial(dplr_step, s=s, skip=skip), (u,), LinearState(h_0), reset, lengths)
    return y, state.h


def _column(x: Tensor) -> Tensor:
    """A complex half [..., N] as the real vector [..., 2N] that the matrices below act on."""
    return torch.cat([x.real, x.imag], -1)


def _row(x: Tensor) -> Tensor:
    """[..., 2N] so that its product with a column is the sum over all states."""
    return 2 * torch.cat([x.real, -x.imag], -1)


def _matrix(s: Discrete) -> Tensor:
    """What a step does to a column: [D, 2N, 2N] real."""
    real, imag = torch.diag_embed(s.a.real), torch.diag_embed(s.a.imag)
    top, bottom = torch.cat([real, -imag], -1), torch.cat([imag, real], -1)
    return torch.cat([top, bottom], -2) - _column(s.q)[..., :, None] * _row(s.m)[..., None, :]


class Krylov(NamedTuple):
    """M^j b [D, 2N, C], c M^(j+1) [D, C, 2N], j < C, and M^C."""

    inputs: Tensor
    reads: Tensor
    power: Tensor


def _krylov(s: Discrete) -> Krylov:
    power = _matrix(s)
    inputs, reads = _column(s.b)[..., None], _row(s.c)[:, None] @ power
    while inputs.shape[-1] < CHUNK:
        inputs, reads = torch.cat([inputs, power @ inputs], -1), torch.cat([reads, reads @ power], -2)
        power = power @ power
    return Krylov(inputs, reads, power)


def _starts(u: Tensor, k: Krylov, h: Tensor) -> Tensor:
    """The columns with which chunks begin, and the last one, [D, K + 1, 2N, B]; u [B, K, C, D]."""
    enter = torch.einsum("bkcd,dnc->dknb", u, k.inputs.flip(-1))
    columns = [h]
    for added in enter.unbind(1):
        columns.append(k.power @ columns[-1] + added)
    return torch.stack(columns, 1)


def _rest(u: Tensor, s: Discrete, starts: Tensor, lengths: Tensor) -> Tensor:
    """h_n [B, D, N]: from where a row's last chunk begins, step by step to its end; u [B, K, C, D]."""
    rows, chunk = torch.arange(len(u), device=u.device), lengths // CHUNK
    column = starts.permute(3, 1, 0, 2)[rows, chunk]
    n = column.shape[-1] // 2
    h = torch.complex(column[..., :n], column[..., n:])
    inputs = u[rows, chunk.clamp(max=u.shape[1] - 1)]
    left = lengths - chunk * CHUNK
    return dplr_loop(inputs, s, inputs.new_zeros(inputs.shape[-1]), h, None, left)[1]


def _chunks(u: Tensor, s: Discrete, alive: Tensor | None) -> Tensor:
    """[B, K, C, D] in the dtype of the state's parts; zero beyond the end."""
    wide = u.to(s.a.real.dtype)
    wide = wide if alive is None else wide.masked_fill(~widen(alive, wide), 0)
    batch, time, width = u.shape
    # Not -1: an axis may be empty.
    return pad(wide, (0, 0, 0, -time % CHUNK)).view(batch, -(-time // CHUNK), CHUNK, width)


def dplr_chunked(
    u: Tensor, s: Discrete, skip: Tensor, h_0: Tensor, lengths: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Inside a chunk a convolution as one matrix, between chunks the state."""
    alive, time, k = living(lengths, u.shape[1]), u.shape[1], _krylov(s)
    chunks = _chunks(u, s, alive)
    starts = _starts(chunks, k, _column(h_0).permute(1, 2, 0))
    y = torch.einsum("dcn,dknb->bkcd", k.reads, starts[:, :-1]) + skip * chunks
    y = (y + torch.einsum("dce,bked->bkcd", _toeplitz(s, k), chunks)).flatten(1, 2)[:, :time]
    y = y if alive is None else y.masked_fill(~widen(alive, y), 0)
    lengths = torch.full((len(u),), time, device=u.device) if lengths is None else lengths
    return y.to(u.dtype), _rest(chunks, s, starts, lengths)


def _toeplitz(s: Discrete, k: Krylov) -> Tensor:
    """[D, C, C]: c M^(i-j) b below and on the diagonal."""
    kernel = (_row(s.c)[:, None] @ k.inputs)[:, 0]
    lag = torch.arange(CHUNK, device=kernel.device)
    lag = lag[:, None] - lag
    return kernel[:, lag.clamp(min=0)].masked_fill(lag < 0, 0)


def cauchy_kernel(s: Continuous, time: int) -> Tensor:
    """K_l = c A_bar^l b_bar for l < time, [D, T]: its generating function at the roots of unity.

    arXiv 2111.00396, algorithm 1; in 1 / ((1 - z) / dt - (1 + z) poles / 2), which is finite at z = -1.
    """
    d = discretise(s)
    row = _row(s.c) - (_row(s.c)[:, None] @ torch.linalg.matrix_power(_matrix(d), time))[:, 0]
    n = row.shape[-1] // 2
    c, p = torch.complex(row[:, :n], -row[:, n:]) / 2, _mirror(s.p)
    angle = torch.arange(time // 2 + 1, device=row.device, dtype=torch.float64) * (-2 * torch.pi / time)
    z = torch.polar(torch.ones_like(angle), angle).to(c.dtype)
    half, left = (1 + z) / 2, ((1 - z) / s.dt[:, None])[:, None]
    terms = [1 / (left - half * poles[..., None]) for poles in (s.poles, _mirror(s.poles))]

    def cauchy(x: Tensor, y: Tensor) -> Tensor:
        pairs = zip((x * y, _mirror(x * y)), terms, strict=True)
        one, other = (torch.einsum("dn,dnf->df", product, term) for product, term in pairs)
        return one + other

    low_rank = half * cauchy(c, s.p) * cauchy(p, s.b) / (1 + half * cauchy(p, s.p))
    kernel: Tensor = torch.fft.irfft(cauchy(c, s.b) - low_rank, time)
    return kernel


def dplr_convolution(u: Tensor, s: Continuous, skip: Tensor) -> tuple[Tensor, Tensor]:
    """y by FFT, from a fresh start; the state by way of the chunks."""
    wide, d = u.to(skip.dtype), discretise(s)
    y = convolve(wide, cauchy_kernel(s, u.shape[1])) + skip * wide
    fresh = skip.new_zeros(*_column(s.b).shape, len(u))
    chunks, lengths = _chunks(u, d, None), torch.full((len(u),), u.shape[1], device=u.device)
    return y.to(u.dtype), _rest(chunks, d, _starts(chunks, _krylov(d), fresh), lengths)


# ----------------------------------------------------------------------------------------------
# The op, on a CPU alone: u [B, T, D], parameters [N, 5, 2, D], skip [D], h_0 [B, N, 2, D]; (y, h_n).


def dplr_native(
    u: Tensor, parameters: Tensor, skip: Tensor, h_0: Tensor, reset: Tensor | None, lengths: Tensor | None
) -> tuple[Tensor, Tensor]:
    """The C++ loop. Raises RuntimeError where the native library is missing or can't take the input."""
    return native.diagonal(u, parameters, skip, h_0, (reset, lengths))


def dplr_open(
    u: Tensor, parameters: Tensor, skip: Tensor, h_0: Tensor, reset: Tensor | None, lengths: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Plain torch, differentiable any number of times; rows with a reset inside go step by step."""
    s, h = _system(parameters), from_planes(h_0)
    if reset is not None or not u.shape[1]:
        y, h_n = dplr_loop(u, s, skip, h, reset, lengths)
    else:
        y, h_n = dplr_chunked(u, s, skip, h, lengths)
    return y, planes(h_n)


def _pullback(dy: Tensor, dh_n: Tensor, *inputs: Any, masks: Any) -> tuple[Tensor, ...]:
    """Gradients of u, parameters, skip and h_0 in plain torch; themselves differentiable."""
    return pullback(lambda *x: dplr_open(*x, *masks), inputs, (dy, dh_n))


def _setup(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    ctx.save_for_backward(*inputs)


def _backward(ctx: Any, dy: Tensor, dh_n: Tensor) -> tuple[Tensor | None, ...]:
    return *BACKWARD(dy, dh_n, *ctx.saved_tensors), None, None


def _cpu_backward(
    dy: Tensor, dh_n: Tensor, u: Tensor, parameters: Tensor, skip: Tensor, h_0: Tensor, *masks: Any
) -> tuple[Tensor, ...]:
    return native.diagonal_backward(dy, dh_n, u, parameters, skip, h_0, masks)


def _backward_twice(ctx: Any, *cotangents: Tensor) -> tuple[Tensor | None, ...]:
    *inputs, reset, lengths = ctx.saved_tensors
    f = partial(_pullback, masks=(reset, lengths))
    return *pullback(f, tuple(inputs), cotangents), None, None


def _empty(x: Tensor) -> Tensor:
    return x.new_empty(x.shape)


_INPUTS = "Tensor u, Tensor parameters, Tensor skip, Tensor h_0, Tensor? reset, Tensor? lengths"
OP = define(
    f"dplr({_INPUTS}) -> (Tensor, Tensor)",
    fake=lambda u, parameters, skip, h_0, *_: (native.empty_as(u), _empty(h_0)),
    setup=_setup,
    backward=_backward,
    cpu=dplr_native,
)
BACKWARD = define(
    f"dplr_backward(Tensor dy, Tensor dh_n, {_INPUTS}) -> (Tensor, Tensor, Tensor, Tensor)",
    fake=lambda dy, dh_n, u, *rest: (native.empty_as(u), *map(_empty, rest[:3])),
    setup=_setup,
    backward=_backward_twice,
    cpu=_cpu_backward,
)


def dplr(
    u: Tensor,
    s: Continuous,
    skip: Tensor,
    state: LinearState | None = None,
    reset: Tensor | None = None,
    lengths: Tensor | None = None,
) -> tuple[Tensor, LinearState]:
    """y_t = 2 Re(sum_n c h_t) + skip u_t, h by the bilinear rule from h' = (diag(poles) - p p*) h + b u.

    u [B, T, D] and skip [D] real; state.h [B, N, 2, D], real and imaginary parts, zeros where None; reset,
    lengths as in `ops.masks`. Raises ValueError that names the argument.
    """
    width, states = s.poles.shape
    if u.ndim != 3 or u.shape[2] != width or not u.is_floating_point():
        raise ValueError(f"u must be floating point [batch, time, {width}], got {u.dtype} {list(u.shape)}")
    if tuple(skip.shape) != (width,):
        raise ValueError(f"skip must be [{width}], got {list(skip.shape)}")
    reset, lengths = check(u.shape[0], u.shape[1], u.device, reset, lengths)
    h_0 = start(state, u[:, :1, None, None].expand(-1, -1, states, 2, -1))
    kept = torch.promote_types(h_0.dtype, torch.complex64)
    s, skip = Continuous(*(v.to(kept if v.is_complex() else h_0.dtype) for v in s)), skip.to(h_0.dtype)
    fresh = state is None and reset is None and lengths is None
    with uncast(u.device):
        if fresh and u.shape[1] and not u.is_cpu:  # the other forms are many small products, or many steps
            y, last = dplr_convolution(u, s, skip)
            return y, LinearState(planes(last))
        y, h_n = dplr_by_planes(u, system_planes(discretise(s)), skip, h_0, reset, lengths)
    return y, LinearState(h_n)


def dplr_by_planes(
    u: Tensor, parameters: Tensor, skip: Tensor, h_0: Tensor, reset: Tensor | None, lengths: Tensor | None
) -> tuple[Tensor, Tensor]:
    """(y, h_n) of `system_planes`, by the kernels where they can take it (shapes are not checked)."""
    form = OP if native.takes(u) and not transforms_active() else dplr_open
    y, h_n = form(u, parameters.to(h_0.dtype), skip.to(h_0.dtype), h_0, reset, lengths)
    return y, h_n
