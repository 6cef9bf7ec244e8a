"""Memory mixing: recurrences whose gates see h_{t-1} through a matrix, and so are sequential by nature.

torch.nn's GRU (arXiv 1406.1078, with its reset gate after the product) and LSTM (Hochreiter and
Schmidhuber, 1997; forget gate: Gers et al., 2000); xLSTM's sLSTM (arXiv 2405.04517), whose heads do not
see each other. The C++ loop keeps nothing but y for its backward pass: all h are known there, so one
large product gives the recurrent parts of all gates again. GPUs have `ops.kernels` where a head is small
enough to stay in a processor, and else the plain loop.
"""

from functools import partial
from typing import Any

import torch
from torch import Tensor

from recurra.ops import kernels, native
from recurra.ops.block_product import block_product
from recurra.ops.cell_forms import CELLS, by_heads, cell_loop, of_heads, recurrent
from recurra.ops.linear import start, state_dtype, states_before
from recurra.ops.masks import check
from recurra.ops.quantized import Quantized, wide
from recurra.ops.registry import define, pullback, transforms_active, uncast, unobserved
from recurra.state import GRUState, LinearState, LSTMState, SLSTMState

__all__ = ["cell_native", "gru", "in_state_dtype", "lstm", "slstm", "take_cell_step"]


def cell_native(
    gates: Tensor,
    weight: Tensor,
    bias: Tensor,
    state: Tensor,
    reset: Tensor | None,
    lengths: Tensor | None,
    cell: str,
    reverse: bool,
) -> tuple[Tensor, Tensor]:
    """The C++ loop. Raises RuntimeError where the native library is missing or can't take the input."""
    return native.cell(cell, gates, weight, bias, state, reset, lengths, reverse)


def cell_triton(
    gates: Tensor,
    weight: Tensor,
    bias: Tensor,
    state: Tensor,
    reset: Tensor | None,
    lengths: Tensor | None,
    cell: str,
    reverse: bool,
) -> tuple[Tensor, Tensor]:
    """The Triton loop, for gates on a GPU."""
    y, state_n = kernels.cell(cell, gates, weight, bias, state, reset, lengths, reverse)
    return y, state_n


def _backward_by(
    library: Any,
    dy: Tensor,
    dstate_n: Tensor,
    gates: Tensor,
    weight: Tensor,
    bias: Tensor,
    state: Tensor,
    y: Tensor,
    *rest: Any,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Gradients of gates, weight, bias and state."""
    reset, lengths, cell, reverse = rest
    if not y.numel():
        return torch.zeros_like(gates), torch.zeros_like(weight), torch.zeros_like(bias), dstate_n.clone()
    before = states_before(y, state[0], reset, lengths, reverse).flatten(0, 1)
    dw = _every_recurrent(before, weight, bias)
    mixed = (before.view(y.shape), dw)
    dgates, dstate = library.cell_backward(
        cell, (dy, dstate_n), gates, weight, state, mixed, (reset, lengths), reverse
    )
    return dgates, *_matrix_gradients(dw, before, weight), dstate


def _every_recurrent(before: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """W_hh h + b_hh of every h [N, H]; of heads [heads, N, parts * C], which spares a copy."""
    if weight.ndim == 2:
        return recurrent(before, weight, bias)
    parts = bias.unflatten(0, (-1, len(weight), weight.shape[-1])).transpose(0, 1).flatten(1)
    with uncast(before.device):
        return torch.baddbmm(parts[:, None], by_heads(before, weight), weight.mT)


def _matrix_gradients(dw: Tensor, before: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """Gradients of weight and bias, from those of `_every_recurrent`."""
    if weight.ndim == 2:
        return recurrent(dw.t(), before.t(), None), dw.sum(0)
    with uncast(before.device):
        dweight = dw.mT @ by_heads(before, weight)
    return dweight, of_heads(dw.sum(1)[:, None], weight)[0]


def _fake(gates: Tensor, weight: Tensor, bias: Tensor, state: Tensor, *_: Any) -> tuple[Tensor, Tensor]:
    return native.empty_rows(gates, state.shape[-1]), state.new_empty(state.shape)


def _fake_backward(
    dy: Tensor, dstate_n: Tensor, gates: Tensor, *parameters: Any
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    weight, bias, state = (p.new_empty(p.shape) for p in parameters[:3])
    return native.empty_as(gates), weight, bias, state


def _setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    gates, weight, bias, state, reset, lengths, *ctx.how = inputs
    ctx.save_for_backward(gates, weight, bias, state, output[0], reset, lengths)


def _backward(ctx: Any, dy: Tensor, dstate_n: Tensor) -> tuple[Tensor | None, ...]:
    return (*BACKWARD(dy, dstate_n, *ctx.saved_tensors, *ctx.how), None, None, None, None)


def _setup_twice(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    dy, dstate_n, gates, weight, bias, state, _, reset, lengths, *ctx.how = inputs
    ctx.save_for_backward(dy, dstate_n, gates, weight, bias, state, reset, lengths)


def _backward_twice(ctx: Any, *cotangents: Tensor) -> tuple[Tensor | None, ...]:
    *inputs, reset, lengths = ctx.saved_tensors

    def first(dy: Tensor, dstate_n: Tensor, *leaves: Tensor) -> tuple[Tensor, ...]:
        def form(g: Tensor, w: Tensor, b: Tensor, s: Tensor) -> tuple[Tensor, Tensor]:
            return cell_loop(g, w, b, s, reset, lengths, *ctx.how)

        return pullback(form, leaves, (dy, dstate_n))

    # y is a function of the other inputs here, computed again: nothing flows through it.
    return (*pullback(first, tuple(inputs), cotangents), *(None,) * 5)


_INPUTS = "Tensor gates, Tensor weight, Tensor bias, Tensor state"
_REST = "Tensor? reset, Tensor? lengths, str cell, bool reverse"
OP = define(
    f"cell({_INPUTS}, {_REST}) -> (Tensor, Tensor)",
    fake=_fake,
    setup=_setup,
    backward=_backward,
    cpu=cell_native,
    cuda=cell_triton,
)
BACKWARD = define(
    f"cell_backward(Tensor dy, Tensor dstate_n, {_INPUTS}, Tensor y, {_REST})"
    " -> (Tensor, Tensor, Tensor, Tensor)",
    fake=_fake_backward,
    setup=_setup_twice,
    backward=_backward_twice,
    cpu=partial(_backward_by, native),
    cuda=partial(_backward_by, kernels),
)


# ----------------------------------------------------------------------------------------------
# What one calls.


def _check_matrix(gates: Tensor, weight: Tensor | Quantized, bias: Tensor | None, parts: int) -> None:
    if gates.ndim != 3 or gates.shape[-1] % parts or not gates.is_floating_point():
        got = f"{gates.dtype} {list(gates.shape)}"
        raise ValueError(f"gates must be floating point [batch, time, {parts} * width], got {got}")
    rows = gates.shape[-1]
    square = (rows, rows // parts) if weight.ndim == 2 else _head_shape(weight, rows, parts)
    for name, p, shape in (("weight_hh", weight, square), ("bias_hh", bias, (rows,))):
        if p is None:
            continue
        if tuple(p.shape) != shape:
            raise ValueError(f"{name} must be {list(shape)} for these gates, got {list(p.shape)}")
        if p.device != gates.device or not p.dtype.is_floating_point:
            got = f"{p.dtype} on {p.device}"
            raise ValueError(f"{name} must be floating point on {gates.device}, like gates, got {got}")


def _head_shape(weight: Tensor | Quantized, rows: int, parts: int) -> tuple[int, int, int]:
    heads, width = len(weight) if weight.ndim else 0, rows // parts
    if not heads or width % heads:
        raise ValueError(f"heads, the first axis of weight_hh, must divide {width}, got {list(weight.shape)}")
    return heads, rows // heads, width // heads


def begin(cell: str, state: Any, like: Tensor) -> list[Tensor]:
    """Every initial state for inputs like [B, T, H]: the given one, checked, or zeros."""
    names = CELLS[cell].state._fields
    if state is not None and len(state) != len(names):
        raise ValueError(f"state must have the parts {', '.join(names)}, got {len(state)} of them")
    parts = [None for _ in names] if state is None else [LinearState(part) for part in state]
    return [start(part, like) for part in parts]


def in_state_dtype(
    weight_hh: Tensor | Quantized, bias_hh: Tensor | None
) -> tuple[Tensor | Quantized, Tensor | None]:
    """The parameters as `take_cell_step` reads them."""
    dtype = state_dtype(weight_hh.dtype)
    weight = weight_hh if isinstance(weight_hh, Quantized) else weight_hh.to(dtype)
    return weight, None if bias_hh is None else bias_hh.to(dtype)


def take_cell_step(
    cell: str, gates: Tensor, state: Any, weight_hh: Tensor | Quantized, bias_hh: Tensor | None
) -> tuple[Tensor, Any]:
    """The step of a row of `CELLS`; where nothing watches, in calls of the kernels.

    gates [B, parts * H]; state as `begin` gives it; the kernels take weight_hh and bias_hh in its dtype.
    Raises ValueError that names the argument.
    """
    _check_matrix(gates[:, None], weight_hh, bias_hh, CELLS[cell].parts)
    fits = native.takes(*state, weight_hh, *(() if bias_hh is None else (bias_hh,))) and native.takes(gates)
    laid = all(x is None or x.is_contiguous() for x in (*state, bias_hh))
    if not fits or not laid or not unobserved(gates, *state, weight_hh, bias_hh):
        return CELLS[cell].step(gates, state, wide(weight_hh), bias_hh)
    heads = weight_hh if weight_hh.ndim == 3 else weight_hh[None]
    mixed = block_product(state[:1], (heads[None],)).unflatten(-1, (len(heads), -1))
    y, last = native.cell_step(cell, gates, mixed, bias_hh, tuple(state))
    return y, CELLS[cell].state(*last)


def run_cell(
    cell: str,
    gates: Tensor,
    matrix: tuple[Tensor | Quantized, Tensor | None],
    state: Any,
    masks: tuple[Tensor | None, Tensor | None],
    reverse: bool,
) -> tuple[Tensor, Any]:
    """`gru`, `lstm` or `slstm` by its name; matrix: weight_hh and bias_hh, masks: reset and lengths."""
    parts, dtype = CELLS[cell].parts, state_dtype(gates.dtype)
    _check_matrix(gates, *matrix, parts)
    reset, lengths = check(gates.shape[0], gates.shape[1], gates.device, *masks)
    first = torch.stack(begin(cell, state, gates[..., : gates.shape[-1] // parts]))
    weight = wide(matrix[0]).to(dtype)
    bias = weight.new_zeros(gates.shape[-1]) if matrix[1] is None else matrix[1].to(dtype)
    fused = native.takes(gates) or kernels.takes_cell(
        cell, gates, weight, backward=_differentiated(gates, weight, bias, first)
    )
    form = OP if fused and not transforms_active() else cell_loop
    y, last = form(gates, weight, bias, first, reset, lengths, cell, reverse)
    return y, CELLS[cell].state(*last.unbind(0))


def _differentiated(*inputs: Tensor) -> bool:
    """Whether a gradient may be asked for."""
    return torch.is_grad_enabled() and any(x.requires_grad for x in inputs)


def gru(
    gates: Tensor,
    weight_hh: Tensor,
    bias_hh: Tensor | None = None,
    state: GRUState | None = None,
    reset: Tensor | None = None,
    lengths: Tensor | None = None,
    *,
    reverse: bool = False,
) -> tuple[Tensor, GRUState]:
    """h_t = (1 - z_t) n_t + z_t h_{t-1}, torch.nn's GRU (arXiv 1406.1078, equations 5 to 8).

    gates [B, T, 3H] = W_ih x_t + b_ih = [r | z | n]; w = weight_hh [3H, H] h_{t-1} + bias_hh [3H];
    r, z = sigmoid(gates + w), n = tanh(gates_n + r w_n); state.h [B, H]; reset, lengths as in
    `ops.masks`. Returns h [B, T, H] in the dtype of the gates and the last state in at least fp32, in
    which all arithmetic is done. Departs from the paper where torch.nn does: r acts after the product.
    Raises ValueError that names the argument for a wrong shape, dtype or device.
    """
    return run_cell("gru", gates, (weight_hh, bias_hh), state, (reset, lengths), reverse)


def lstm(
    gates: Tensor,
    weight_hh: Tensor,
    bias_hh: Tensor | None = None,
    state: LSTMState | None = None,
    reset: Tensor | None = None,
    lengths: Tensor | None = None,
    *,
    reverse: bool = False,
) -> tuple[Tensor, LSTMState]:
    """c_t = f c_{t-1} + i g, h_t = o tanh(c_t): torch.nn's LSTM (Gers et al., 2000, without peepholes).

    gates [B, T, 4H] = [i | f | g | o], to which weight_hh [4H, H] h_{t-1} + bias_hh [4H] is added;
    sigmoid, g: tanh; state.h and state.c [B, H]. The rest as `gru`.
    """
    return run_cell("lstm", gates, (weight_hh, bias_hh), state, (reset, lengths), reverse)


def slstm(
    gates: Tensor,
    weight_hh: Tensor,
    bias_hh: Tensor | None = None,
    state: SLSTMState | None = None,
    reset: Tensor | None = None,
    lengths: Tensor | None = None,
    *,
    reverse: bool = False,
) -> tuple[Tensor, SLSTMState]:
    """c_t = f c_{t-1} + i z, n_t = f n_{t-1} + i, h_t = o c_t / n_t: sLSTM (arXiv 2405.04517, section 2.2).

    gates [B, T, 4H] = [i | f | z | o], heads side by side in each; to those of head k, of C = H / heads
    channels, weight_hh[k] [4C, C] h_{t-1} of that head is added, and bias_hh [4H]. i = exp, f and o
    sigmoid, z tanh; c and n are in units of e^m, equations 15 to 17. The rest as `gru`. Says what the
    paper leaves open: where n is 0, m is -infinity.
    """
    return run_cell("slstm", gates, (weight_hh, bias_hh), state, (reset, lengths), reverse)
