"""The selective state space recurrence of Mamba (S6, arXiv 2312.00752, section 3.2).

With N states a channel, all h would take N times the memory of the input. No form keeps them: plain torch
and the kernels go chunk by chunk, and their backward passes compute the h of a chunk again.
"""

from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid, silu
from torch.utils.checkpoint import checkpoint

from recurra.ops import kernels, native
from recurra.ops.linear import recur, state_dtype
from recurra.ops.masks import check, living, widen
from recurra.ops.native.selectives import Masks, Tensors
from recurra.ops.project import project
from recurra.ops.registry import define, pullback, transforms_active, unobserved
from recurra.state import SelectiveState

__all__ = ["selective", "selective_native", "selective_open", "selective_step"]


# ----------------------------------------------------------------------------------------------
# The equation, with any axes in front; A [N, D], h [..., N, D]; a z of no channels is no gate.


def _factors(x: Tensor, delta: Tensor, B: Tensor, A: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
    """(a, b) of h = a h + b: exp(delta A) and delta B x."""
    # Not torch's softplus, which is x itself beyond 20.
    delta = -logsigmoid(-(delta + bias)).unsqueeze(-2)
    return (delta * A).exp(), B.unsqueeze(-1) * (delta * x.unsqueeze(-2))


def _read(h: Tensor, x: Tensor, C: Tensor, z: Tensor, D: Tensor) -> Tensor:
    """(C h + D x) silu(z)."""
    y = (C.unsqueeze(-1) * h).sum(-2) + D * x
    return y * silu(z) if z.shape[-1] else y


def _no_gate(x: Tensor) -> Tensor:
    return x.new_empty(*x.shape[:-1], 0)


def selective_step(
    x: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor,
    bias: Tensor,
    z: Tensor | None,
    state: SelectiveState,
) -> tuple[Tensor, SelectiveState]:
    """One step of `selective`, from x, delta, z [batch, D] and B, C [batch, N]: the definition."""
    inputs = (x, delta, B, C, _no_gate(x) if z is None else z, A.t(), D, bias)
    u, delta, B, C, z, A, D, bias = (v.to(state.h.dtype) for v in inputs)
    a, b = _factors(u, delta, B, A, bias)
    h = a * state.h + b
    return _read(h, u, C, z, D).to(x.dtype), SelectiveState(h)


class StepParameters(NamedTuple):
    """W [R, D] of delta = W^T r, and, in the state's dtype, A [N, D], D [D] and bias [D]."""

    W: Tensor
    A: Tensor
    D: Tensor
    bias: Tensor


def layer_step(
    x: Tensor, mixed: Tensor, z: Tensor, parameters: StepParameters, state: SelectiveState
) -> tuple[Tensor, SelectiveState]:
    """`selective_step` of mixed [batch, R + 2 N], which is r | B | C; where nothing watches, one call of the
    kernels. Raises ValueError for a state of another shape."""
    h = _start(state, x[:, None], len(parameters.A))
    W, A, D, bias = parameters.W, *(p.to(h.dtype) for p in parameters[1:])
    if unobserved(x, mixed, z, h, *parameters) and native.takes(x, mixed, z, W):
        y, h = native.selective_step((x, mixed, z), (W, A, D, bias), h)
        return y, SelectiveState(h)
    r, B, C = mixed.split([len(W), len(A), len(A)], -1)
    return selective_step(x, project(r, W.t()), A.t(), B, C, D, bias, z, SelectiveState(h))


# ----------------------------------------------------------------------------------------------
# The forms. inputs: x, delta [B, T, D], B, C [B, T, N], z [B, T, D or 0]; parameters: A [N, D], D and bias
# [D], and h_0 [B, N, D], all in the state's dtype; masks: reset and lengths.


def _chunk(inputs: Tensors, parameters: Tensors, h_0: Tensor, masks: Masks) -> tuple[Tensor, Tensor]:
    (x, delta, B, C, z), (A, D, bias) = inputs, parameters
    h, h_n = recur(*_factors(x, delta, B, A, bias), h_0, *masks, False)
    return _read(h, x, C, z, D), h_n


def selective_open(inputs: Tensors, parameters: Tensors, h_0: Tensor, masks: Masks) -> tuple[Tensor, Tensor]:
    """Plain torch: each chunk by `linear`. Differentiable any number of times."""
    (reset, lengths), (_, time, _) = masks, inputs[0].shape
    rows = [v.to(h_0.dtype) for v in inputs]
    if (alive := living(lengths, time)) is not None:  # padding must not reach the gradients of parameters
        rows = [v.masked_fill(~widen(alive, v), 0) for v in rows]
    # No transform sees through a checkpoint, and a compiler keeps what it likes.
    plain = not torch.is_grad_enabled() or transforms_active() or torch.compiler.is_compiling()
    h, ys = h_0, []
    for begin in range(0, max(time, 1), native.CHUNK):
        end = min(begin + native.CHUNK, time)
        cut = None if reset is None else reset[:, begin:end].contiguous()
        left = None if lengths is None else (lengths - begin).clamp(0, end - begin)
        chunk = (tuple(v[:, begin:end] for v in rows), parameters, h, (cut, left))
        y, h = _chunk(*chunk) if plain else checkpoint(_chunk, *chunk, use_reentrant=False)
        ys.append(y)
    return torch.cat(ys, 1).to(inputs[0].dtype), h


def selective_native(
    inputs: Tensors, parameters: Tensors, h_0: Tensor, masks: Masks
) -> tuple[Tensor, Tensor]:
    """The C++ loop. Raises RuntimeError where the native library is missing or can't take the input."""
    y, h_n, _ = native.selective(inputs, parameters, h_0, masks)
    return y, h_n


# ----------------------------------------------------------------------------------------------
# The op: five inputs, three parameters, h_0, reset and lengths, in a row as a schema has them. Its third
# output, the state before each chunk, is for its backward pass alone.


def _forward_by(library: Any, *arguments: Any) -> Tensors:
    results: Tensors = library.selective(arguments[:5], arguments[5:8], arguments[8], arguments[9:])
    return results


def _backward_by(library: Any, dy: Tensor, dh_n: Tensor, *arguments: Any) -> Tensors:
    *_, entering, reset, lengths = arguments
    inputs, parameters = arguments[:5], arguments[5:8]
    gradients: Tensors = library.selective_backward(
        (dy, dh_n), inputs, parameters, entering, (reset, lengths)
    )
    return gradients


def _fake(x: Tensor, *arguments: Any) -> tuple[Tensor, Tensor, Tensor]:
    h_0, chunks = arguments[7], (x.shape[1] + native.CHUNK - 1) // native.CHUNK
    return native.empty_as(x), h_0.new_empty(h_0.shape), h_0.new_empty(chunks * h_0.numel())


def _setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    ctx.save_for_backward(*inputs[:9], output[2], *inputs[9:])
    ctx.mark_non_differentiable(output[2])
    ctx.set_materialize_grads(False)  # zeros for output 2 would be as large as it is


def _backward(ctx: Any, dy: Tensor | None, dh_n: Tensor | None, _: Any) -> tuple[Tensor | None, ...]:
    saved = ctx.saved_tensors  # once: where blocks are computed twice, each look computes again
    x, h_0 = saved[0], saved[8]
    dy = x.new_zeros(x.shape) if dy is None else dy
    dh_n = h_0.new_zeros(h_0.shape) if dh_n is None else dh_n
    return (*BACKWARD(dy, dh_n, *saved), None, None)


def _setup_twice(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    ctx.save_for_backward(*inputs)


def _backward_twice(ctx: Any, *cotangents: Tensor) -> tuple[Tensor | None, ...]:
    *inputs, _, reset, lengths = ctx.saved_tensors

    def first(dy: Tensor, dh_n: Tensor, *leaves: Tensor) -> Tensors:
        def form(*v: Any) -> tuple[Tensor, Tensor]:
            return selective_open(v[:5], v[5:8], v[8], (reset, lengths))

        return pullback(form, leaves, (dy, dh_n))

    # The states before the chunks are functions of the other inputs, computed again: nothing flows through.
    return (*pullback(first, tuple(inputs), cotangents), None, None, None)


_INPUTS = ", ".join(f"Tensor {name}" for name in ("x", "delta", "B", "C", "z", "A", "D", "bias", "h_0"))
_MASKS = "Tensor? reset, Tensor? lengths"
OP = define(
    f"selective({_INPUTS}, {_MASKS}) -> (Tensor, Tensor, Tensor)",
    fake=_fake,
    setup=_setup,
    backward=_backward,
    cpu=partial(_forward_by, native),
    cuda=partial(_forward_by, kernels),
)
BACKWARD = define(
    f"selective_backward(Tensor dy, Tensor dh_n, {_INPUTS}, Tensor entering, {_MASKS})"
    f" -> ({', '.join(['Tensor'] * 9)})",
    fake=lambda dy, dh_n, *inputs: (
        *(native.empty_as(v) for v in inputs[:2]),
        *(v.new_empty(v.shape) for v in inputs[2:4]),
        native.empty_as(inputs[4]),
        *(v.new_empty(v.shape) for v in inputs[5:9]),
    ),
    setup=_setup_twice,
    backward=_backward_twice,
    cpu=partial(_backward_by, native),
    cuda=partial(_backward_by, kernels),
)


# ----------------------------------------------------------------------------------------------
# What one calls.


def _check(x: Tensor, arguments: dict[str, Tensor], states: int) -> None:
    if x.ndim != 3 or not x.is_floating_point():
        raise ValueError(f"x must be floating point [batch, time, width], got {x.dtype} {list(x.shape)}")
    batch, time, width = x.shape
    shapes: dict[str, tuple[int, ...]] = {
        "delta": (batch, time, width),
        "B": (batch, time, states),
        "C": (batch, time, states),
        "z": (batch, time, width),
        "A": (width, states),
        "D": (width,),
        "bias": (width,),
    }
    for name, v in arguments.items():
        if tuple(v.shape) != shapes[name] or not v.is_floating_point() or v.device != x.device:
            want, got = f"{list(shapes[name])} on {x.device}", f"{v.dtype} {list(v.shape)} on {v.device}"
            raise ValueError(f"{name} must be floating point {want}, like x and A, got {got}")


def _start(state: SelectiveState | None, x: Tensor, states: int) -> Tensor:
    shape, dtype = (x.shape[0], states, x.shape[2]), state_dtype(x.dtype)
    if state is None:
        return x.new_zeros(shape, dtype=dtype)
    if tuple(state.h.shape) != shape or state.h.device != x.device:
        got = f"{list(state.h.shape)} on {state.h.device}"
        raise ValueError(f"state must be [batch, states, width] = {list(shape)} on {x.device}, got {got}")
    return state.h.to(dtype)


def selective(
    x: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor,
    bias: Tensor,
    z: Tensor | None = None,
    state: SelectiveState | None = None,
    reset: Tensor | None = None,
    lengths: Tensor | None = None,
) -> tuple[Tensor, SelectiveState]:
    """h_t = exp(d_t A) h_{t-1} + d_t B_t x_t, y_t = (C_t h_t + D x_t) silu(z_t), d = softplus(delta + bias).

    Mamba's S6 (arXiv 2312.00752, section 3.2, algorithm 2), N states a channel. x, delta, z [batch, T, D], z
    None: no gate; A [D, N]; B, C [batch, T, N]; D, bias [D]; state.h [batch, N, D]; masks as in `ops.masks`.
    Returns y [batch, T, D] in the dtype of x and the last state in at least fp32, in which all is computed.
    Departs from equation 4 where the authors' code does: B is multiplied by d, not by (exp(d A) - 1) / A.
    Raises ValueError that names the argument for a wrong shape, dtype or device.
    """
    given = {"delta": delta, "A": A, "B": B, "C": C, "D": D, "bias": bias} | ({} if z is None else {"z": z})
    _check(x, given, A.shape[-1])
    reset, lengths = check(x.shape[0], x.shape[1], x.device, reset, lengths)
    h_0 = _start(state, x, A.shape[1])
    inputs = tuple(v.to(x.dtype) for v in (x, delta, B, C, _no_gate(x) if z is None else z))
    parameters = tuple(p.to(h_0.dtype) for p in (A.t(), D, bias))
    if (native.takes(x) or kernels.takes(x)) and not transforms_active():
        y, h_n, _ = OP(*inputs, *parameters, h_0, reset, lengths)
    else:
        y, h_n = selective_open(inputs, parameters, h_0, (reset, lengths))
    return y, SelectiveState(h_n)
