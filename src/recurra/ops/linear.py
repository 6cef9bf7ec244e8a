"""The linear recurrence h_t = a_t h_{t-1} + b_t, elementwise, real or complex.

It carries minGRU and minLSTM (arXiv 2410.01201, section 3), S4D, GILR, QRNN, HGRN and RG-LRU. Three
forms compute it: `linear_loop` (the truth), `linear_parallel` (plain torch, O(T) work in O(log T)
passes, for devices without a kernel) and `linear_native` (C++); GPUs have `ops.kernels`. `linear` is
what one calls.
"""

from functools import partial
from typing import Any

import torch
from torch import Tensor

from recurra.ops import kernels, native
from recurra.ops.loop import unroll
from recurra.ops.masks import check, cuts, living, widen
from recurra.ops.registry import define, fold_batch, pullback, transforms_active
from recurra.state import LinearState

__all__ = ["linear", "linear_loop", "linear_native", "linear_parallel", "linear_step"]

Masks = tuple[Tensor | None, Tensor | None]


def state_dtype(dtype: torch.dtype) -> torch.dtype:
    """The dtype in which a state of inputs of this dtype is kept: at least fp32."""
    return torch.promote_types(dtype, torch.float32)


def start(state: LinearState | None, like: Tensor, name: str = "state") -> Tensor:
    """h_0 for inputs like [B, T, ...]: the given state, checked, or zeros."""
    shape, dtype = (like.shape[0], *like.shape[2:]), state_dtype(like.dtype)
    if state is None:
        return like.new_zeros(shape, dtype=dtype)
    h = state[0]
    if tuple(h.shape) != shape:
        raise ValueError(f"{name} must be {list(shape)} (batch, ...) for this input, got {list(h.shape)}")
    if h.device != like.device:
        raise ValueError(f"{name} is on {h.device}, the input on {like.device}")
    if h.is_complex() and not dtype.is_complex:
        raise ValueError(f"{name} is {h.dtype}, the input {like.dtype}")
    return h.to(dtype)


# ----------------------------------------------------------------------------------------------
# The step and the three forms. h_0 [B, ...] in the state's dtype; they return (h, h_n).


def linear_step(a: Tensor, b: Tensor, state: LinearState) -> tuple[Tensor, LinearState]:
    """h_t = a_t h_{t-1} + b_t: the definition."""
    h = a * state.h + b
    return h, LinearState(h)


def linear_loop(
    a: Tensor, b: Tensor, h_0: Tensor, reset: Tensor | None, lengths: Tensor | None, reverse: bool
) -> tuple[Tensor, Tensor]:
    """The step, once after the other."""
    if not b.shape[1]:
        return b.clone(), h_0.clone()
    y, state = unroll(linear_step, (a, b), LinearState(h_0), reset, lengths, reverse=reverse)
    return y.to(b.dtype), state.h


def _scan(a: Tensor, b: Tensor) -> Tensor:
    """Inclusive scan over dim 1 from a zero state: neighbours are joined, the halves scanned, and
    the steps between filled in. A factor of zero forgets even what is not finite."""
    time = b.shape[1]
    if time == 1:
        return b
    even = time - time % 2
    a_0, a_1, b_0, b_1 = a[:, 0:even:2], a[:, 1:even:2], b[:, 0:even:2], b[:, 1:even:2]
    a_both, b_both = (torch.where(a_1 == 0, 0, a_1 * x) for x in (a_0, b_0))
    odd = _scan(a_both, b_1 + b_both)
    a_2, b_2 = a[:, 2::2], b[:, 2::2]
    rest = b_2 + torch.where(a_2 == 0, 0, a_2 * odd[:, : b_2.shape[1]])
    h = torch.empty_like(b)
    h[:, 0], h[:, 1::2], h[:, 2::2] = b[:, 0], odd, rest
    return h


def linear_parallel(
    a: Tensor, b: Tensor, h_0: Tensor, reset: Tensor | None, lengths: Tensor | None, reverse: bool
) -> tuple[Tensor, Tensor]:
    """Plain torch on any device: the masks become factors of 0 and 1, the rest is one scan."""
    dtype, time = b.dtype, b.shape[1]
    if not time:
        return b.clone(), h_0.clone()
    a, b = a.to(h_0.dtype), b.to(h_0.dtype)
    cut, alive = cuts(reset, lengths, reverse), living(lengths, time)
    if cut is not None:
        a = a.masked_fill(widen(cut, a), 0)
    if alive is not None:
        a, b = a.masked_fill(~widen(alive, a), 1), b.masked_fill(~widen(alive, b), 0)
    if reverse:
        a, b = a.flip(1), b.flip(1)
    first = b[:, :1] + torch.where(a[:, :1] == 0, 0, a[:, :1] * h_0[:, None])
    h = _scan(a, torch.cat([first, b[:, 1:]], 1))
    h_n = h[:, -1].clone()
    if reverse:
        h = h.flip(1)
    if alive is not None:
        h = h.masked_fill(~widen(alive, h), 0)
    return h.to(dtype), h_n


def linear_native(
    a: Tensor, b: Tensor, h_0: Tensor, reset: Tensor | None, lengths: Tensor | None, reverse: bool
) -> tuple[Tensor, Tensor]:
    """The C++ loop. Raises RuntimeError where the native library is missing or can't take the input."""
    return native.scan("linear", (a, b), h_0, reset, lengths, reverse)


# ----------------------------------------------------------------------------------------------
# The derivative is the same recurrence, read the other way: g_t = dy_t + conj(a_{t+1}) g_{t+1}.


def _previous(x: Tensor, first: Tensor, lengths: Tensor | None, reverse: bool) -> Tensor:
    """x one step earlier in the order of processing; `first` [B, ...] stands before the first step."""
    if not reverse:
        return torch.cat([first[:, None], x[:, :-1]], 1)
    if lengths is None:
        return torch.cat([x[:, 1:], first[:, None]], 1)
    shifted = torch.cat([x[:, 1:], x[:, -1:]], 1)
    last = torch.arange(x.shape[1], device=x.device) == lengths[:, None] - 1
    return torch.where(widen(last, x), first[:, None], shifted)


def states_before(
    h: Tensor, h_0: Tensor, reset: Tensor | None, lengths: Tensor | None, reverse: bool
) -> Tensor:
    """h_{t-1} as step t saw it: zero after a cut."""
    before = _previous(h.to(h_0.dtype), h_0, lengths, reverse)
    cut = cuts(reset, lengths, reverse)
    return before if cut is None else before.masked_fill(widen(cut, before), 0)


def _conj(x: Tensor) -> Tensor:
    # Not x.conj(): it marks a view, and inside an op of a compiled graph nothing looks at the mark.
    return x.conj_physical() if x.is_complex() else x


def linear_pullback(
    dh: Tensor,
    dh_n: Tensor,
    a: Tensor,
    h_0: Tensor,
    h: Tensor,
    reset: Tensor | None,
    lengths: Tensor | None,
    reverse: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of a, b, h_0 by one reversed `linear`; itself differentiable any number of times."""
    if not h.shape[1]:
        return torch.zeros_like(a), torch.zeros_like(h), dh_n.clone()
    a_eff = _conj(a.to(h_0.dtype))
    cut = cuts(reset, lengths, reverse)
    if cut is not None:
        a_eff = a_eff.masked_fill(widen(cut, a), 0)
    factor = _previous(a_eff, torch.ones_like(h_0), lengths, not reverse)
    g, first = recur(factor, dh.to(h_0.dtype), dh_n, None, lengths, not reverse)
    da = g * _conj(states_before(h, h_0, reset, lengths, reverse))
    last = a_eff[:, 0]
    if reverse and lengths is not None:
        index = (lengths - 1).clamp(min=0)
        last = a_eff[torch.arange(len(index), device=index.device), index]
    elif reverse:
        last = a_eff[:, -1]
    if lengths is not None:
        last = torch.where(widen(lengths == 0, last), 1, last)
    return da.to(a.dtype), g.to(h.dtype), last * first


def _fake(a: Tensor, b: Tensor, h_0: Tensor, *_: Any) -> tuple[Tensor, Tensor]:
    return native.empty_as(b), h_0.new_empty(h_0.shape)


def _plain(a: Tensor, b: Tensor, h_0: Tensor, *rest: Any) -> tuple[Tensor, Tensor]:
    h, h_n = linear_parallel(a, b, h_0, *rest)
    return native.lay_out(h, b), h_n


def _plain_backward(
    dh: Tensor, dh_n: Tensor, a: Tensor, h_0: Tensor, h: Tensor, *rest: Any
) -> tuple[Tensor, Tensor, Tensor]:
    da, db, dh_0 = linear_pullback(dh, dh_n, a, h_0, h, *rest)
    return native.lay_out(da, a), native.lay_out(db, h), dh_0


def _fused(library: Any, a: Tensor, b: Tensor, *rest: Any) -> tuple[Tensor, Tensor]:
    scanned: tuple[Tensor, Tensor]
    scanned = library.scan("linear", (a, b), *rest) if library.takes(a, b) else _plain(a, b, *rest)
    return scanned


def _fused_backward(
    library: Any,
    dh: Tensor,
    dh_n: Tensor,
    a: Tensor,
    h_0: Tensor,
    h: Tensor,
    reset: Tensor | None,
    lengths: Tensor | None,
    reverse: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    if not library.takes(a, h):
        return _plain_backward(dh, dh_n, a, h_0, h, reset, lengths, reverse)
    # The kernel of the sum never reads b: its place is taken by any tensor of the same shape.
    (da, db), dh_0 = library.scan_backward("linear", dh, dh_n, (a, h), h_0, h, reset, lengths, reverse)
    return da, db, dh_0


def _setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    a, _, h_0, reset, lengths, reverse = inputs
    ctx.save_for_backward(a, h_0, output[0], reset, lengths)
    ctx.reverse = reverse


def _backward(ctx: Any, dh: Tensor, dh_n: Tensor) -> tuple[Tensor | None, ...]:
    a, h_0, h, reset, lengths = ctx.saved_tensors
    grads = BACKWARD(dh, dh_n, a, h_0, h, reset, lengths, ctx.reverse)
    return (*grads, None, None, None)


def _setup_twice(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    *tensors, ctx.reverse = inputs
    ctx.save_for_backward(*tensors)


def _backward_twice(ctx: Any, *cotangents: Tensor) -> tuple[Tensor | None, ...]:
    *inputs, reset, lengths = ctx.saved_tensors
    f = partial(linear_pullback, reset=reset, lengths=lengths, reverse=ctx.reverse)
    return (*pullback(f, tuple(inputs), cotangents), None, None, None)


_MASKS = "Tensor? reset, Tensor? lengths, bool reverse"
OP = define(
    f"linear(Tensor a, Tensor b, Tensor h_0, {_MASKS}) -> (Tensor, Tensor)",
    fake=_fake,
    setup=_setup,
    backward=_backward,
    cpu=partial(_fused, native),
    cuda=partial(_fused, kernels),
    other=_plain,
)
BACKWARD = define(
    f"linear_backward(Tensor dh, Tensor dh_n, Tensor a, Tensor h_0, Tensor h, {_MASKS})"
    " -> (Tensor, Tensor, Tensor)",
    fake=lambda dh, dh_n, a, h_0, h, *_: (*map(native.empty_as, (a, h)), h_0.new_empty(h_0.shape)),
    setup=_setup_twice,
    backward=_backward_twice,
    cpu=partial(_fused_backward, native),
    cuda=partial(_fused_backward, kernels),
    other=_plain_backward,
)


class _Linear(torch.autograd.Function):
    """The op as torch.func and forward-mode AD can see through it."""

    forward = staticmethod(OP)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
        _setup(ctx, inputs, output)
        a, _, h_0, reset, lengths, _ = inputs
        ctx.save_for_forward(a, h_0, output[0], reset, lengths)

    @staticmethod
    def backward(ctx: Any, dh: Tensor, dh_n: Tensor) -> tuple[Tensor | None, ...]:
        a, h_0, h, reset, lengths = ctx.saved_tensors
        return (*linear_pullback(dh, dh_n, a, h_0, h, reset, lengths, ctx.reverse), None, None, None)

    @staticmethod
    def jvp(ctx: Any, da: Tensor, db: Tensor, dh_0: Tensor, *_: None) -> tuple[Tensor, Tensor]:
        a, h_0, h, reset, lengths = ctx.saved_tensors
        before = states_before(h, h_0, reset, lengths, ctx.reverse)
        db = (da * before + db).to(db.dtype)
        return recur(a, db, dh_0, reset, lengths, ctx.reverse)

    @staticmethod
    def vmap(info: Any, in_dims: tuple[int | None, ...], *args: Any) -> tuple[Any, tuple[int, int]]:
        folded, unfold = fold_batch(info, in_dims, *args)
        h, h_n = _Linear.apply(*folded)  # type: ignore[no-untyped-call]
        return (unfold(h), unfold(h_n)), (0, 0)


def recur(
    a: Tensor, b: Tensor, h_0: Tensor, reset: Tensor | None, lengths: Tensor | None, reverse: bool
) -> tuple[Tensor, Tensor]:
    """`linear` of arguments that were checked before: one front for the op and its twin."""
    call = _Linear.apply if transforms_active() else OP
    h, h_n = call(a, b, h_0, reset, lengths, reverse)
    return h, h_n


def linear(
    a: Tensor,
    b: Tensor,
    state: LinearState | None = None,
    reset: Tensor | None = None,
    lengths: Tensor | None = None,
    *,
    reverse: bool = False,
) -> tuple[Tensor, LinearState]:
    """h_t = a_t h_{t-1} + b_t, elementwise.

    a, b: real or complex, broadcast together to [B, T, ...]; state.h [B, ...], zeros where None;
    reset [B, T] and lengths [B] as in `ops.masks`; reverse: from the last step to the first.
    Returns every h [B, T, ...] and the state after the last step taken. Arithmetic and state are in
    at least fp32. Raises ValueError that names the argument for a wrong shape, dtype or device.
    """
    a, b = _broadcast(a, b)
    reset, lengths = check(b.shape[0], b.shape[1], b.device, reset, lengths)
    h, h_n = recur(a, b, start(state, b), reset, lengths, reverse)
    return h, LinearState(h_n)


def _broadcast(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    for name, x in (("a", a), ("b", b)):
        if not (x.is_floating_point() or x.is_complex()):
            raise ValueError(f"{name} must be floating point or complex, got {x.dtype}")
    if a.device != b.device:
        raise ValueError(f"a is on {a.device}, b on {b.device}")
    try:
        a, b = torch.broadcast_tensors(a, b)
    except RuntimeError:
        raise ValueError(f"a {list(a.shape)} and b {list(b.shape)} do not broadcast together") from None
    if b.ndim < 2:
        raise ValueError(f"a and b must have at least 2 axes (batch, time), got {list(b.shape)}")
    dtype = torch.promote_types(a.dtype, b.dtype)
    return a.to(dtype), b.to(dtype)
