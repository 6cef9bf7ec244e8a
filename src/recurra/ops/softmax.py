"""Running softmax averages: attention with one query, read at every prefix in constant memory.

It carries Aaren (arXiv 2405.13956) and, with a decay and a bonus, the wkv of RWKV-4 (arXiv 2305.13048).
An average is two sums in units of e^max; two neighbours merge into one, and everything here is that
merge: `softmax_step` of a step's own value into the past, `softmax_open` of all of them in O(log T)
passes of plain torch, `softmax_native` in C++, `softmax_triton` on a GPU.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from recurra.ops import kernels, native
from recurra.ops.linear import state_dtype
from recurra.ops.loop import unroll
from recurra.ops.masks import check, cuts, living, widen
from recurra.ops.registry import define, pullback, transforms_active, unobserved
from recurra.state import SoftmaxState

__all__ = ["softmax", "softmax_loop", "softmax_native", "softmax_open", "softmax_step", "take_step"]


# ----------------------------------------------------------------------------------------------
# The equation.


def _spread(x: Tensor, like: Tensor) -> Tensor:
    """[..., H] to the channels [..., D] that share each score."""
    return x[..., None].expand(*x.shape, like.shape[-1] // x.shape[-1]).flatten(-2)


def _merge(older: SoftmaxState, newer: SoftmaxState) -> SoftmaxState:
    """The average over what both have read, in the units of the larger max."""
    empty, nothing = older.denominator == 0, newer.denominator == 0
    ahead = (empty | (newer.max > older.max)) & ~nothing
    top = torch.where(ahead, newer.max, older.max)
    # Never above 0 where it counts; where it does not, no infinity may reach a gradient.
    keep = torch.where(empty, 0, (older.max - top).clamp(max=0).exp())
    take = torch.where(nothing, 0, (newer.max - top).clamp(max=0).exp())
    numerator = _spread(keep, older.numerator) * older.numerator
    numerator = numerator + _spread(take, newer.numerator) * newer.numerator
    return SoftmaxState(top, numerator, keep * older.denominator + take * newer.denominator)


def _read(state: SoftmaxState) -> Tensor:
    return state.numerator / _spread(state.denominator, state.numerator)


def softmax_step(
    scores: Tensor,
    values: Tensor,
    state: SoftmaxState,
    decay: Tensor | None = None,
    bonus: Tensor | None = None,
) -> tuple[Tensor, SoftmaxState]:
    """y_t and the state from scores [B, H] and values [B, D]: the definition."""
    s, v = scores.to(state.max.dtype), values.to(state.max.dtype)
    now = _merge(state, SoftmaxState(s if bonus is None else s + bonus, v, torch.ones_like(s)))
    y = _read(now).to(values.dtype)
    if decay is None and bonus is None:
        return y, now
    older = state if decay is None else state._replace(max=state.max - decay)
    return y, _merge(older, SoftmaxState(s, v, torch.ones_like(s)))


# ----------------------------------------------------------------------------------------------
# The forms. The state is packed, max | numerator | denominator, [B, 2H + D]; decay and bonus [H] in its
# dtype; they return (y, state_n).


def _unpack(state: Tensor, scores: Tensor) -> SoftmaxState:
    heads = scores.shape[-1]
    return SoftmaxState(*state.split([heads, state.shape[-1] - 2 * heads, heads], -1))


def softmax_loop(
    scores: Tensor,
    values: Tensor,
    decay: Tensor,
    bonus: Tensor,
    state: Tensor,
    reset: Tensor | None,
    lengths: Tensor | None,
    reverse: bool,
) -> tuple[Tensor, Tensor]:
    """The step, once after the other."""
    if not scores.shape[1]:
        return values.clone(), state.clone()
    step, first = partial(softmax_step, decay=decay, bonus=bonus), _unpack(state, scores)
    y, last = unroll(step, (scores, values), first, reset, lengths, reverse=reverse)
    return y, torch.cat(last, -1)


class _Span(NamedTuple):
    """Neighbouring steps as one: what all before them decays by, if it is forgotten, their own sums."""

    decay: Tensor
    cut: Tensor
    max: Tensor
    numerator: Tensor
    denominator: Tensor


def _each(f: Callable[..., Tensor], *spans: _Span) -> _Span:
    return _Span(*(f(*parts) for parts in zip(*spans, strict=True)))


def _steps(span: _Span, *steps: int | None) -> _Span:
    return _each(lambda x: x[:, slice(*steps)], span)


def _arrive(older: _Span, decay: Tensor, cut: Tensor) -> SoftmaxState:
    """What is left of the older steps where a span of this decay begins."""
    kept = (older.max - decay, older.numerator, older.denominator)
    return SoftmaxState(*(torch.where(widen(cut, x), 0, x) for x in kept))


def _join(older: _Span, newer: _Span) -> _Span:
    sums = _merge(_arrive(older, newer.decay, newer.cut), SoftmaxState(*newer[2:]))
    return _Span(older.decay + newer.decay, older.cut | newer.cut, *sums)


def _weave(even: Tensor, odd: Tensor) -> Tensor:
    count = odd.shape[1]
    return torch.cat([torch.stack([even[:, :count], odd], 2).flatten(1, 2), even[:, count:]], 1)


def _scan(span: _Span) -> _Span:
    """Every prefix over dim 1: neighbours are joined, the halves scanned, the steps between filled in."""
    time = span.cut.shape[1]
    if time == 1:
        return span
    odd = _scan(_join(_steps(span, 0, time - 1, 2), _steps(span, 1, None, 2)))
    rest = _join(_steps(odd, 0, (time - 1) // 2), _steps(span, 2, None, 2))
    even = _each(lambda x, y: torch.cat([x, y], 1), _steps(span, 0, 1), rest)
    return _each(_weave, even, odd)


def _spans(
    s: Tensor, v: Tensor, decay: Tensor, reset: Tensor | None, lengths: Tensor | None, reverse: bool
) -> _Span:
    """The steps in the order of processing; one in the padding changes nothing."""
    cut, alive = cuts(reset, lengths, reverse), living(lengths, s.shape[1])
    cut = torch.zeros_like(s[..., 0], dtype=torch.bool) if cut is None else cut
    span = _Span(decay.expand_as(s), cut, s, v, torch.ones_like(s))
    if alive is not None:
        span = _each(lambda x: torch.where(widen(alive, x), x, torch.zeros_like(x)), span)
    return _each(lambda x: x.flip(1), span) if reverse else span


def softmax_open(
    scores: Tensor,
    values: Tensor,
    decay: Tensor,
    bonus: Tensor,
    state: Tensor,
    reset: Tensor | None,
    lengths: Tensor | None,
    reverse: bool,
) -> tuple[Tensor, Tensor]:
    """Plain torch on any device, parallel in time. Differentiable any number of times."""
    if not scores.shape[1]:
        return values.clone(), state.clone()
    s, v = scores.to(state.dtype), values.to(state.dtype)
    span, first = _spans(s, v, decay, reset, lengths, reverse), _unpack(state[:, None], scores)
    begin = _Span(torch.zeros_like(first.max), torch.zeros_like(span.cut[:, :1]), *first)
    sums = _scan(_each(lambda x, y: torch.cat([x, y], 1), begin, span))
    before = _arrive(_steps(sums, 0, -1), torch.zeros_like(s), span.cut)
    now = SoftmaxState(span.max + bonus, span.numerator, torch.ones_like(s))
    y = _read(_merge(before, now))
    y = y.flip(1) if reverse else y
    alive = living(lengths, s.shape[1])
    y = y if alive is None else y.masked_fill(~widen(alive, y), 0)
    return y.to(values.dtype), torch.cat([x[:, -1] for x in sums[2:]], -1)


def softmax_native(
    scores: Tensor,
    values: Tensor,
    decay: Tensor,
    bonus: Tensor,
    state: Tensor,
    reset: Tensor | None,
    lengths: Tensor | None,
    reverse: bool,
) -> tuple[Tensor, Tensor]:
    """The C++ loop. Raises RuntimeError where the native library is missing or can't take the input."""
    return native.softmax(scores, values, decay, bonus, state, reset, lengths, reverse)


def softmax_triton(
    scores: Tensor,
    values: Tensor,
    decay: Tensor,
    bonus: Tensor,
    state: Tensor,
    reset: Tensor | None,
    lengths: Tensor | None,
    reverse: bool,
) -> tuple[Tensor, Tensor]:
    """The Triton kernel, for inputs on a GPU."""
    y, state_n = kernels.softmax(scores, values, decay, bonus, state, reset, lengths, reverse)
    return y, state_n


def _backward_by(library: Any, *arguments: Any) -> tuple[Tensor, ...]:
    gradients: tuple[Tensor, ...] = library.softmax_backward(*arguments)
    return gradients


def _setup(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    *tensors, ctx.reverse = inputs
    ctx.save_for_backward(*tensors)


def _backward(ctx: Any, dy: Tensor, dstate_n: Tensor) -> tuple[Tensor | None, ...]:
    return (*BACKWARD(dy, dstate_n, *ctx.saved_tensors, ctx.reverse), None, None, None)


def _backward_twice(ctx: Any, *cotangents: Tensor) -> tuple[Tensor | None, ...]:
    *inputs, reset, lengths = ctx.saved_tensors
    form = partial(softmax_open, reset=reset, lengths=lengths, reverse=ctx.reverse)

    def first(dy: Tensor, dstate_n: Tensor, *leaves: Tensor) -> tuple[Tensor, ...]:
        return pullback(form, leaves, (dy, dstate_n))

    return (*pullback(first, tuple(inputs), cotangents), None, None, None)


def _fake_backward(dy: Tensor, dstate_n: Tensor, scores: Tensor, values: Tensor, *rest: Any) -> Any:
    return *map(native.empty_as, (scores, values)), *(x.new_empty(x.shape) for x in rest[:3])


_INPUTS = "Tensor scores, Tensor values, Tensor decay, Tensor bonus, Tensor state"
_REST = "Tensor? reset, Tensor? lengths, bool reverse"
OP = define(
    f"softmax({_INPUTS}, {_REST}) -> (Tensor, Tensor)",
    fake=lambda s, v, d, u, state, *_: (native.empty_as(v), state.new_empty(state.shape)),
    setup=_setup,
    backward=_backward,
    cpu=softmax_native,
    cuda=softmax_triton,
)
BACKWARD = define(
    f"softmax_backward(Tensor dy, Tensor dstate_n, {_INPUTS}, {_REST})"
    " -> (Tensor, Tensor, Tensor, Tensor, Tensor)",
    fake=_fake_backward,
    setup=_setup,
    backward=_backward_twice,
    cpu=partial(_backward_by, native),
    cuda=partial(_backward_by, kernels),
)


# ----------------------------------------------------------------------------------------------
# What one calls.


def _check(scores: Tensor, values: Tensor, axes: tuple[str, ...]) -> None:
    for name, x in (("scores", scores), ("values", values)):
        if x.ndim != len(axes) + 1 or not x.is_floating_point():
            got = f"{x.dtype} {list(x.shape)}"
            raise ValueError(f"{name} must be floating point [{', '.join(axes)}, ...], got {got}")
    heads = scores.shape[-1]
    if scores.shape[:-1] != values.shape[:-1] or not heads or values.shape[-1] % heads:
        got = f"scores {list(scores.shape)} and values {list(values.shape)}"
        raise ValueError(f"scores must have as many steps as values, and divide their width, got {got}")
    if scores.device != values.device or scores.dtype != values.dtype:
        got = f"{values.dtype} on {values.device}"
        raise ValueError(f"values must be like scores, {scores.dtype} on {scores.device}, got {got}")


def _vector(name: str, x: Tensor, scores: Tensor) -> Tensor:
    """A decay or a bonus in the dtype of the state."""
    shape = scores.shape[-1:]
    if x.shape != shape or x.device != scores.device or not x.is_floating_point():
        want, got = f"{list(shape)} on {scores.device}", f"{x.dtype} {list(x.shape)} on {x.device}"
        raise ValueError(f"{name} must be floating point {want}, like scores, got {got}")
    return x.to(state_dtype(scores.dtype)).contiguous()


def _begin(state: SoftmaxState | None, like: Tensor, heads: int, width: int) -> SoftmaxState:
    """The initial state for inputs like [B, ...]: the given one, checked, or the empty one."""
    batch, dtype = like.shape[0], state_dtype(like.dtype)
    shapes = [(batch, size) for size in (heads, width, heads)]
    if state is None:
        return SoftmaxState(*(like.new_zeros(shape, dtype=dtype) for shape in shapes))
    for name, x, shape in zip(SoftmaxState._fields, state, shapes, strict=True):
        if tuple(x.shape) != shape or x.device != like.device:
            got = f"{list(x.shape)} on {x.device}"
            raise ValueError(f"state must have {name} {list(shape)} on {like.device}, got {got}")
    return SoftmaxState(*(x.to(dtype) for x in state))


def take_step(
    scores: Tensor,
    values: Tensor,
    state: SoftmaxState | None,
    decay: Tensor | None = None,
    bonus: Tensor | None = None,
) -> tuple[Tensor, SoftmaxState]:
    """`softmax_step`, from the empty state where it is None; where nothing watches, a call of the kernels.

    Raises ValueError that names the argument.
    """
    # The kernel looks at addresses alone: what does not fit would be read and written beyond its end.
    _check(scores, values, ("batch",))
    first = _begin(state, scores, scores.shape[1], values.shape[1])
    w = None if decay is None else _vector("decay", decay, scores)
    u = None if bonus is None else _vector("bonus", bonus, scores)
    fits = native.takes(scores, values) and all(x.is_contiguous() for x in (scores, values, *first))
    if not fits or not unobserved(scores, values, *first, w, u):
        return softmax_step(scores, values, first, w, u)
    y, last = native.softmax_step(scores, values, w, u, first)
    return y, SoftmaxState(*last)


def softmax(
    scores: Tensor,
    values: Tensor,
    state: SoftmaxState | None = None,
    reset: Tensor | None = None,
    lengths: Tensor | None = None,
    *,
    decay: Tensor | None = None,
    bonus: Tensor | None = None,
    reverse: bool = False,
) -> tuple[Tensor, SoftmaxState]:
    """y_t = (sum_{j<t} e^{s_j - (t-1-j) w} v_j + e^{s_t + u} v_t) / the same sum without v.

    scores s [B, T, H], finite, of any size; values v [B, T, D], channel d under score d H / D; decay w and
    bonus u [H], zeros where None; state as `SoftmaxState`; reset, lengths as in `ops.masks`. Returns y
    [B, T, D] and the last state in at least fp32, in which all arithmetic is done. Without w and u it
    is softmax attention with a fixed query over each prefix (arXiv 2405.13956, section 3.1), with H = D
    the wkv of RWKV-4 (arXiv 2305.13048, section 3). Raises ValueError that names the argument.
    """
    _check(scores, values, ("batch", "time"))
    reset, lengths = check(scores.shape[0], scores.shape[1], scores.device, reset, lengths)
    none = scores.new_zeros(scores.shape[2:])
    w = _vector("decay", none if decay is None else decay, scores)
    u = _vector("bonus", none if bonus is None else bonus, scores)
    first = torch.cat(_begin(state, scores, scores.shape[2], values.shape[2]), -1)
    fused = native.takes(scores, values) or kernels.takes(scores, values)
    form = OP if fused and not transforms_active() else softmax_open
    y, last = form(scores, values, w, u, first, reset, lengths, reverse)
    return y, _unpack(last, scores)
