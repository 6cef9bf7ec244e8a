"""A matrix for each head, to which every step adds key times value: mLSTM, RWKV-5, linear attention.

With a gate (mLSTM, arXiv 2405.04517, equations 19 to 27) decay and gate are logarithms, the state is kept in
units of e^max, and what is read is divided by |q n|, or by one where that is less. Without, nothing is
divided; with a bonus (RWKV-5, arXiv 2404.05892, section 4.1) a step reads what was there before it, and
its own part by way of the bonus.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from recurra.ops import native
from recurra.ops.linear import state_dtype
from recurra.ops.loop import unroll
from recurra.ops.masks import check, cuts, living, widen
from recurra.ops.registry import define, pullback, transforms_active, unobserved
from recurra.state import OuterState

__all__ = ["outer", "outer_loop", "outer_native", "outer_open", "outer_step", "take_outer_step"]


# Steps that the plain form takes at once where every key decays by itself: each pair of them has all keys.
_OF_KEYS = 16


class Inputs(NamedTuple):
    """q, k [..., H, K], v [..., H, V], decay [..., H] or [..., H, K], gate [..., H] or None."""

    q: Tensor
    k: Tensor
    v: Tensor
    decay: Tensor
    gate: Tensor | None

    def each(self, f: Callable[[Tensor], Tensor]) -> "Inputs":
        """f of all that is there."""
        gate = None if self.gate is None else f(self.gate)
        return Inputs(f(self.q), f(self.k), f(self.v), f(self.decay), gate)


# ----------------------------------------------------------------------------------------------
# The equation.


def _floor(top: Tensor) -> Tensor:
    """One in units of e^max, within what the dtype can hold."""
    least, most = (-708.0, 709.0) if top.dtype == torch.float64 else (-87.0, 88.0)
    return (-top).clamp(least, most).exp()


def outer_step(
    inputs: Inputs, state: OuterState, bonus: Tensor | None = None, scale: float = 1.0
) -> tuple[Tensor, OuterState]:
    """y_t [B, H, V] and the state from one step's inputs: the definition."""
    q, k, v, decay, gate = inputs.each(lambda x: x.to(state.c.dtype))
    k = k * scale
    if gate is None:
        keep = decay.exp()[..., None] if decay.ndim == q.ndim else decay.exp()[..., None, None]
        c = keep * state.c + k[..., None] * v[..., None, :]
        seen = c if bonus is None else state.c + (bonus * k)[..., None] * v[..., None, :]
        return (q[..., None, :] @ seen)[..., 0, :].to(inputs.v.dtype), state._replace(c=c)
    top = torch.maximum(decay + state.max, gate)
    keep, take = (decay + state.max - top).exp(), (gate - top).exp()
    k = take[..., None] * k
    c = keep[..., None, None] * state.c + k[..., None] * v[..., None, :]
    n = keep[..., None] * state.n + k
    y = (q[..., None, :] @ c)[..., 0, :] / torch.maximum((q * n).sum(-1).abs(), _floor(top))[..., None]
    return y.to(inputs.v.dtype), OuterState(c, n, top)


# ----------------------------------------------------------------------------------------------
# The forms: inputs with time behind the batch, state and bonus in its dtype; they return (y, state).


def outer_loop(
    inputs: Inputs,
    bonus: Tensor | None,
    state: OuterState,
    reset: Tensor | None,
    lengths: Tensor | None,
    scale: float = 1.0,
) -> tuple[Tensor, OuterState]:
    """The step, once after the other."""
    if not inputs.v.shape[1]:
        return inputs.v.clone(), state
    given = tuple(x for x in inputs if x is not None)

    def step(*now: Any) -> tuple[Tensor, OuterState]:
        *xs, before = now
        return outer_step(Inputs(*xs, *(None,) * (5 - len(xs))), before, bonus, scale)

    return unroll(step, given, state, reset, lengths)


class _Sums(NamedTuple):
    """Of decays within a chunk, [B, H, L, ...]: between two steps, from the last cut to each, and whether
    there is none before it; `same` [B, 1, L, L]: the later step is not before the earlier, no cut between."""

    between: Tensor
    until: Tensor
    uncut: Tensor
    same: Tensor


def _sums(decay: Tensor, cut: Tensor) -> _Sums:
    """decay [B, H, L, 1 or K], cut [B, L]. Sums, not differences of sums: those lose what is small."""
    steps = torch.arange(cut.shape[1], device=cut.device)
    segment = cut.cumsum(1)
    same = (segment[:, :, None] == segment[:, None]) & (steps[:, None] >= steps)
    later = (steps[:, None] > steps)[..., None]
    between = torch.where(later, decay[..., None, :], 0).cumsum(-3)
    until = (same[:, None, :, :, None] * decay[:, :, None]).sum(-2)
    return _Sums(between, until, (segment == 0)[:, None, :, None], same[:, None])


def _shifted(x: Tensor, dim: int) -> Tensor:
    """What stood one step before, zeros first."""
    return torch.cat([torch.zeros_like(x.narrow(dim, 0, 1)), x.narrow(dim, 0, x.shape[dim] - 1)], dim)


def _chunk_gated(x: Inputs, state: OuterState, cut: Tensor) -> tuple[Tensor, OuterState]:
    q, k, v, decay, gate = x
    assert gate is not None
    between, until, uncut, same = _sums(decay[..., None], cut)
    logs = (between[..., 0] + gate[:, :, None]).masked_fill(~same, -torch.inf)
    carried = until[..., 0] + torch.where(uncut[..., 0], state.max[..., None], 0)
    top = torch.maximum(logs.amax(-1), carried)
    seen = (carried - top).exp() * uncut[..., 0]
    weights = (logs - top[..., None]).exp()
    mixed = weights * (q @ k.mT)
    y = mixed @ v + seen[..., None] * (q @ state.c)
    denominator = mixed.sum(-1) + seen * (q @ state.n[..., None])[..., 0]
    y = y / torch.maximum(denominator.abs(), _floor(top))[..., None]
    written, left = weights[..., -1, :, None] * k, seen[..., -1]
    c = left[..., None, None] * state.c + written.mT @ v
    return y, OuterState(c, left[..., None] * state.n + written.sum(-2), top[..., -1])


def _chunk_plain(
    x: Inputs, state: OuterState, cut: Tensor, bonus: Tensor | None
) -> tuple[Tensor, OuterState]:
    q, k, v, decay, _ = x
    decay = decay[..., None] if decay.ndim < q.ndim else decay
    between, until, uncut, same = _sums(decay, cut)
    weights = between.masked_fill(~same[..., None], -torch.inf).exp()
    written, left = weights[..., -1, :, :] * k, (until.exp() * uncut)[..., -1, :, None]
    if bonus is not None:  # what is read lies one step back
        between, until = _shifted(between, -3), _shifted(until, -2)
        weights = between.masked_fill(~same[..., None], -torch.inf).exp()
    mixed = torch.einsum("bhjk,bhlk,bhjlk->bhjl", q, k, weights.expand(*weights.shape[:-1], k.shape[-1]))
    if bonus is not None:
        own = (q * bonus[:, None] * k).sum(-1)
        mixed = mixed.tril(-1) + torch.diag_embed(own)
    y = mixed @ v + (q * until.exp() * uncut) @ state.c
    return y, state._replace(c=left * state.c + written.mT @ v)


def outer_open(
    inputs: Inputs,
    bonus: Tensor | None,
    state: OuterState,
    reset: Tensor | None,
    lengths: Tensor | None,
    scale: float = 1.0,
) -> tuple[Tensor, OuterState]:
    """Plain torch: matrix products within chunks, the state between them. Differentiable again and again."""
    (batch, time), dtype = inputs.v.shape[:2], inputs.v.dtype
    cut, alive = cuts(reset, lengths, False), living(lengths, time)
    cut = torch.zeros(batch, time, dtype=torch.bool, device=inputs.v.device) if cut is None else cut
    q, k, v, decay, gate = inputs.each(lambda x: x.to(state.c.dtype))
    if alive is not None:  # a step of the padding keeps all and writes nothing
        q, k, v, decay = (x.masked_fill(~widen(alive, x), 0) for x in (q, k, v, decay))
        gate = None if gate is None else gate.masked_fill(~widen(alive, gate), -torch.inf)
    rows = Inputs(q, scale * k, v, decay, gate).each(lambda x: x.transpose(1, 2))
    size, ys = native.SEGMENT if decay.ndim < q.ndim else _OF_KEYS, [rows.v[:, :, :0]]
    for begin in range(0, time, size):
        steps = slice(begin, begin + size)
        chunk = rows.each(lambda x, steps=steps: x[:, :, steps])  # type: ignore[misc]
        if gate is None:
            y, state = _chunk_plain(chunk, state, cut[:, steps], bonus)
        else:
            y, state = _chunk_gated(chunk, state, cut[:, steps])
        ys.append(y)
    y = torch.cat(ys, 2).transpose(1, 2)
    y = y if alive is None else y.masked_fill(~widen(alive, y), 0)
    return y.to(dtype), state


def outer_native(
    inputs: Inputs,
    bonus: Tensor | None,
    state: OuterState,
    reset: Tensor | None,
    lengths: Tensor | None,
    scale: float = 1.0,
) -> tuple[Tensor, OuterState]:
    """The C++ loop. Raises RuntimeError where the native library is missing or can't take the input."""
    y, last, _ = native.outer(inputs[:4], inputs.gate, bonus, state, (reset, lengths), scale, False)
    return y, OuterState(*last)


# ----------------------------------------------------------------------------------------------
# The op: four inputs, gate and bonus or None, three parts of the state, masks and scale. Its last output,
# the state before each segment, is for its backward pass alone.


def _cpu(*given: Any) -> tuple[Tensor, ...]:
    y, last, entering = native.outer(given[:4], given[4], given[5], given[6:9], given[9:11], given[11], True)
    return y, *last, entering


def _fake(*arguments: Any) -> tuple[Tensor, ...]:
    q, v, state = arguments[0], arguments[2], arguments[6:9]
    segments = (q.shape[1] + native.SEGMENT - 1) // native.SEGMENT
    kept = q.shape[0] * q.shape[2] * segments * q.shape[3] * (v.shape[3] + 1)
    return v.new_empty(v.shape), *(x.new_empty(x.shape) for x in state), state[0].new_empty(kept)


def _setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    ctx.scale = inputs[11]
    ctx.save_for_backward(*inputs[:9], *output[1:], *inputs[9:11])
    ctx.mark_non_differentiable(output[4])


def _backward(ctx: Any, *cotangents: Tensor) -> tuple[Tensor | None, ...]:
    *inputs, reset, lengths = ctx.saved_tensors
    grads = iter(BACKWARD(*cotangents[:4], *inputs, reset, lengths, ctx.scale))
    # An op returns tensors alone: of what is None it has none to return.
    return (*(None if x is None else next(grads) for x in inputs[:9]), None, None, None)


def _cpu_backward(*given: Any) -> list[Tensor]:
    states = given[10:13], given[13:16]
    found = native.outer_backward(
        given[:4], given[4:8], given[8], given[9], states, given[16], given[17:19], given[19]
    )
    d, dgate, dbonus, dstate = found
    return [*d, *(x for x in (dgate, dbonus) if x is not None), *dstate]


def _fake_backward(*arguments: Any) -> list[Tensor]:
    return [x.new_empty(x.shape) for x in arguments[4:13] if x is not None]


def _setup_twice(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    ctx.scale = inputs[19]
    ctx.save_for_backward(*inputs[:13], *inputs[17:19])


def _backward_twice(ctx: Any, cotangents: Any) -> tuple[Tensor | None, ...]:
    *tensors, reset, lengths = ctx.saved_tensors
    given = [i for i, x in enumerate(tensors) if x is not None]

    def first(*leaves: Tensor) -> tuple[Tensor, ...]:
        def form(*inner: Tensor) -> tuple[Tensor, ...]:
            y, last = outer_open(*_arranged(given[4:], inner), reset, lengths, ctx.scale)
            return y, *last

        return pullback(form, leaves[4:], leaves[:4])

    grads = dict(
        zip(given, pullback(first, tuple(tensors[i] for i in given), tuple(cotangents)), strict=True)
    )
    return (*(grads.get(i) for i in range(13)), *(None,) * 7)


def _arranged(given: list[int], tensors: tuple[Tensor, ...]) -> tuple[Inputs, Tensor | None, OuterState]:
    """What stood at these places behind the four cotangents."""
    at = dict(zip(given, tensors, strict=True))
    return Inputs(*(at.get(i) for i in range(4, 9))), at.get(9), OuterState(*(at[i] for i in range(10, 13)))  # type: ignore[arg-type]


_INPUTS = (
    "Tensor q, Tensor k, Tensor v, Tensor decay, Tensor? gate, Tensor? bonus, Tensor c, Tensor n, Tensor max"
)
_MASKS = "Tensor? reset, Tensor? lengths, float scale"
OP = define(
    f"outer({_INPUTS}, {_MASKS}) -> ({', '.join(['Tensor'] * 5)})",
    fake=_fake,
    setup=_setup,
    backward=_backward,
    cpu=_cpu,
)
BACKWARD = define(
    f"outer_backward(Tensor dy, Tensor dc_n, Tensor dn_n, Tensor dmax_n, {_INPUTS}, Tensor c_n, "
    f"Tensor n_n, Tensor max_n, Tensor entering, {_MASKS}) -> Tensor[]",
    fake=_fake_backward,
    setup=_setup_twice,
    backward=_backward_twice,
    cpu=_cpu_backward,
)


# ----------------------------------------------------------------------------------------------
# What one calls.


def _check(inputs: Inputs, bonus: Tensor | None, axes: tuple[str, ...]) -> None:
    q, v, n = inputs.q, inputs.v, len(axes)
    for name, x in (("q", q), ("v", v)):
        if x.ndim != n + 2 or not x.is_floating_point() or not x.shape[-1] or not x.shape[-2]:
            got = f"{x.dtype} {list(x.shape)}"
            raise ValueError(f"{name} must be floating point [{', '.join(axes)}, heads, channels], got {got}")
    steps = tuple(q.shape[: n + 1])
    wide = inputs.decay.ndim == q.ndim and inputs.gate is None
    shapes = {"k": tuple(q.shape), "v": (*steps, v.shape[-1]), "gate": steps}
    shapes["decay"] = tuple(q.shape) if wide else steps
    for name, shape in shapes.items():
        x = getattr(inputs, name)
        if x is not None and (tuple(x.shape) != shape or x.dtype != q.dtype or x.device != q.device):
            want, got = f"{q.dtype} {list(shape)} on {q.device}", f"{x.dtype} {list(x.shape)} on {x.device}"
            raise ValueError(f"{name} must be {want}, like q, got {got}")
    if bonus is not None and inputs.gate is not None:
        raise ValueError("bonus is not for a memory with a gate")
    if bonus is not None and (tuple(bonus.shape) != tuple(q.shape[-2:]) or bonus.device != q.device):
        got = f"{list(bonus.shape)} on {bonus.device}"
        raise ValueError(f"bonus must be {list(q.shape[-2:])} on {q.device}, like a step of q, got {got}")


def _begin(state: OuterState | None, inputs: Inputs) -> OuterState:
    """The initial state: the given one, checked, or the empty one."""
    q, gated = inputs.q, inputs.gate is not None
    batch, (heads, keys), dtype = q.shape[0], q.shape[-2:], state_dtype(q.dtype)
    shapes = (batch, heads, keys, inputs.v.shape[-1]), (batch, heads, keys * gated), (batch, heads * gated)
    if state is None:
        return OuterState(*(q.new_zeros(shape, dtype=dtype) for shape in shapes))
    for name, x, shape in zip(OuterState._fields, state, shapes, strict=True):
        if tuple(x.shape) != shape or x.device != q.device:
            got = f"{list(x.shape)} on {x.device}"
            raise ValueError(f"state must have {name} {list(shape)} on {q.device}, got {got}")
    return OuterState(*(x.to(dtype) for x in state))


def take_outer_step(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    decay: Tensor,
    gate: Tensor | None = None,
    state: OuterState | None = None,
    *,
    bonus: Tensor | None = None,
    scale: float = 1.0,
) -> tuple[Tensor, OuterState]:
    """One step of `outer`, inputs without time; where nothing watches, a call of the kernels."""
    inputs = Inputs(q, k, v, decay, gate)
    _check(inputs, bonus, ("batch",))
    first = _begin(state, inputs)
    bonus = None if bonus is None else bonus.to(first.c.dtype)
    if not unobserved(*inputs, *first, bonus) or not native.takes(q):
        return outer_step(inputs, first, bonus, scale)
    steps, bonus = inputs.each(lambda x: x[:, None]), None if bonus is None else bonus.contiguous()
    y, last = outer_native(steps, bonus, first, None, None, scale)
    return y[:, 0], last


def outer(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    decay: Tensor,
    gate: Tensor | None = None,
    state: OuterState | None = None,
    reset: Tensor | None = None,
    lengths: Tensor | None = None,
    *,
    bonus: Tensor | None = None,
    scale: float = 1.0,
) -> tuple[Tensor, OuterState]:
    """C_t = e^decay C_{t-1} + scale e^gate k v', y_t = C_t' q / max(|n_t q|, 1), in each of H heads.

    q, k [B, T, H, K], v [B, T, H, V], decay (at most 0) and gate [B, T, H]; n: C of values of one. Without a
    gate: C_t = e^decay C_{t-1} + scale k v', decay also [B, T, H, K], for each key, and y_t = C_t' q, or with
    a bonus u [H, K] y_t = (C_{t-1} + scale (u k) v')' q. mLSTM (arXiv 2405.04517, equations 19 to 27) and
    RWKV-5 (arXiv 2404.05892, section 4.1). State as `OuterState`, kept and computed in at least fp32; masks
    as in `ops.masks`. Returns y [B, T, H, V] and the last state. Departs from the authors' code of mLSTM in
    leaving out the 1e-6 that it adds to a divisor. Raises ValueError that names the argument.
    """
    inputs = Inputs(q, k, v, decay, gate)
    _check(inputs, bonus, ("batch", "time"))
    reset, lengths = check(q.shape[0], q.shape[1], q.device, reset, lengths)
    first = _begin(state, inputs)
    bonus = None if bonus is None else bonus.to(first.c.dtype).contiguous()
    if native.takes(q) and not transforms_active():
        y, *last, _ = OP(*inputs, bonus, *first, reset, lengths, scale)
        return y, OuterState(*last)
    return outer_open(inputs, bonus, first, reset, lengths, scale)
