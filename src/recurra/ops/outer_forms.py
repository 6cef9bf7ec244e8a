"""The matrix memory in plain torch: its step, which defines it, the loop of that, and a form in chunks."""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import pad

from recurra.ops import native
from recurra.ops.loop import unroll
from recurra.ops.masks import cuts, living, spoilt, widen
from recurra.state import OuterState

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


def _in_chunks(
    inputs: Inputs, bonus: Tensor | None, state: OuterState, cut: Tensor
) -> tuple[Tensor, OuterState]:
    rows = inputs.each(lambda x: x.transpose(1, 2))
    of_keys = rows.decay.ndim == rows.q.ndim
    size, ys = _OF_KEYS if of_keys else native.SEGMENT, [rows.v[:, :, :0]]
    for begin in range(0, cut.shape[1], size):
        steps = slice(begin, begin + size)
        chunk = rows.each(lambda x, steps=steps: x[:, :, steps])  # type: ignore[misc]
        if rows.gate is None:
            y, state = _chunk_plain(chunk, state, cut[:, steps], bonus)
        else:
            y, state = _chunk_gated(chunk, state, cut[:, steps])
        ys.append(y)
    return torch.cat(ys, 2).transpose(1, 2), state


def _unsound(inputs: Inputs, state: OuterState) -> Tensor:
    """[B, 1 + T] bool: the state, then each step has a number that is not finite; a logarithm may be -inf."""
    logarithms = [x for x in inputs[3:] if x is not None]
    steps = [*(x.isfinite() for x in inputs[:3]), *(x < torch.inf for x in logarithms)]
    first = torch.stack([x.isfinite().flatten(1).all(1) for x in state]).all(0)
    return ~torch.cat([first[:, None], torch.stack([x.flatten(2).all(2) for x in steps]).all(0)], 1)


def contain(
    inputs: Inputs, state: OuterState, cut: Tensor, alive: Tensor | None = None
) -> tuple[Inputs, OuterState, Tensor]:
    """Both without what is not finite, which weights of zero would let across a cut; and where it was, or
    lies before since the last cut, [B, 1 + T]: the state first."""
    bad = _unsound(inputs, state)
    bad = bad if alive is None else bad & pad(alive, (1, 0), value=True)
    clean = inputs.each(lambda x: x.masked_fill(widen(bad[:, 1:], x), 0))
    first = OuterState(*(x.masked_fill(widen(bad[:, 0], x), 0) for x in state))
    return clean, first, spoilt(bad, pad(cut, (1, 0)))


def _contained(
    inputs: Inputs, bonus: Tensor | None, state: OuterState, cut: Tensor
) -> tuple[Tensor, OuterState]:
    """`_in_chunks`, where nothing that is not finite crosses a cut: its segment is NaN from there on."""
    clean, first, behind = contain(inputs, state, cut)
    y, last = _in_chunks(clean, bonus, first, cut)
    y = y.masked_fill(widen(behind[:, 1:], y), torch.nan)
    return y, OuterState(*(x.masked_fill(widen(behind[:, -1], x), torch.nan) for x in last))


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
    q, k, v, decay, gate = inputs.each(lambda x: x.to(state.c.dtype))
    if alive is not None:  # a step of the padding keeps all and writes nothing
        q, k, v, decay = (x.masked_fill(~widen(alive, x), 0) for x in (q, k, v, decay))
        gate = None if gate is None else gate.masked_fill(~widen(alive, gate), -torch.inf)
    given = Inputs(q, scale * k, v, decay, gate), bonus, state
    uncut = torch.zeros(batch, time, dtype=torch.bool, device=v.device)
    y, state = _in_chunks(*given, uncut) if cut is None else _contained(*given, cut)
    y = y if alive is None else y.masked_fill(~widen(alive, y), 0)
    return y.to(dtype), state
