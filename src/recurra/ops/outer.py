"""A matrix for each head, to which every step adds key times value: mLSTM, RWKV-5, linear attention.

With a gate (mLSTM, arXiv 2405.04517, equations 19 to 27) decay and gate are logarithms, the state is kept in
units of e^max, and what is read is divided by |q n|, or by one where that is less. Without, nothing is
divided; with a bonus (RWKV-5, arXiv 2404.05892, section 4.1) a step reads what was there before it, and
its own part by way of the bonus.
"""

from functools import partial
from typing import Any

from torch import Tensor

from recurra.ops import kernels, native
from recurra.ops.linear import state_dtype
from recurra.ops.masks import check
from recurra.ops.outer_forms import Inputs, outer_open, outer_step
from recurra.ops.registry import define, pullback, transforms_active, unobserved
from recurra.state import OuterState

__all__ = ["outer", "outer_native", "take_outer_step"]


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
# the state before each segment, is for its backward pass alone; on a GPU it is empty.


def _by(library: Any, *given: Any) -> tuple[Tensor, ...]:
    y, last, entering = library.outer(given[:4], given[4], given[5], given[6:9], given[9:11], given[11], True)
    return y, *last, entering


def _fake(*arguments: Any) -> tuple[Tensor, ...]:
    q, v, state = arguments[0], arguments[2], arguments[6:9]
    segments = (q.shape[1] + native.SEGMENT - 1) // native.SEGMENT
    kept = 0 if q.is_cuda else q.shape[0] * q.shape[2] * segments * q.shape[3] * (v.shape[3] + 1)
    return v.new_empty(v.shape), *(x.new_empty(x.shape) for x in state), state[0].new_empty(kept)


def _setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    ctx.scale = inputs[11]
    ctx.save_for_backward(*inputs[:9], *output[1:], *inputs[9:11])
    ctx.mark_non_differentiable(output[4])
    ctx.set_materialize_grads(False)  # zeros for output 4 alone would be as much as all of q, k and v


def _backward(ctx: Any, *cotangents: Tensor) -> tuple[Tensor | None, ...]:
    *inputs, reset, lengths = ctx.saved_tensors
    outputs = inputs[2], *inputs[9:12]  # y is like v
    seeds = (x.new_zeros(x.shape) if d is None else d for d, x in zip(cotangents[:4], outputs, strict=True))
    grads = iter(BACKWARD(*seeds, *inputs, reset, lengths, ctx.scale))
    # An op returns tensors alone: of what is None it has none to return.
    return (*(None if x is None else next(grads) for x in inputs[:9]), None, None, None)


def _backward_by(library: Any, *given: Any) -> list[Tensor]:
    states = given[10:13], given[13:16]
    found = library.outer_backward(
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
    cpu=partial(_by, native),
    cuda=partial(_by, kernels),
)
BACKWARD = define(
    f"outer_backward(Tensor dy, Tensor dc_n, Tensor dn_n, Tensor dmax_n, {_INPUTS}, Tensor c_n, "
    f"Tensor n_n, Tensor max_n, Tensor entering, {_MASKS}) -> Tensor[]",
    fake=_fake_backward,
    setup=_setup_twice,
    backward=_backward_twice,
    cpu=partial(_backward_by, native),
    cuda=partial(_backward_by, kernels),
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
    if (native.takes(q) or kernels.takes(q)) and not transforms_active():
        y, *last, _ = OP(*inputs, bonus, *first, reset, lengths, scale)
        return y, OuterState(*last)
    return outer_open(inputs, bonus, first, reset, lengths, scale)
