"""Memory mixing in plain torch: the steps of GRU, LSTM and sLSTM, which define them, and their loop."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from recurra.ops.loop import unroll
from recurra.ops.project import project
from recurra.ops.registry import uncast
from recurra.state import GRUState, LSTMState, SLSTMState


def recurrent(h: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """W_hh h + b_hh in the dtype of h, also under autocast."""
    bias = None if bias is None else bias.to(h.dtype)
    with uncast(h.device):
        if weight.ndim == 2:
            return project(h, weight.to(h.dtype), bias)
        w: Tensor = of_heads(by_heads(h, weight) @ weight.to(h.dtype).mT, weight)
    return w if bias is None else w + bias


def by_heads(h: Tensor, weight: Tensor) -> Tensor:
    """[heads, B, C] of h [B, heads * C], for a weight [heads, parts * C, C]."""
    h = h.unflatten(-1, (len(weight), -1))
    return h.transpose(0, 1)


def of_heads(w: Tensor, weight: Tensor) -> Tensor:
    """[B, parts * heads * C], as gates lie, of w [heads, B, parts * C]."""
    w = w.unflatten(-1, (-1, weight.shape[-1]))
    return w.permute(1, 2, 0, 3).flatten(1)


def gru_step(
    gates: Tensor, state: GRUState, weight_hh: Tensor, bias_hh: Tensor | None = None
) -> tuple[Tensor, GRUState]:
    """h_t = (1 - z) n + z h_{t-1} with r, z = sigmoid(x + w) and n = tanh(x_n + r w_n): the definition."""
    x_r, x_z, x_n = gates.to(state.h.dtype).chunk(3, -1)
    w_r, w_z, w_n = recurrent(state.h, weight_hh, bias_hh).chunk(3, -1)
    r, z = (x_r + w_r).sigmoid(), (x_z + w_z).sigmoid()
    h = (1 - z) * (x_n + r * w_n).tanh() + z * state.h
    return h.to(gates.dtype), GRUState(h)


def lstm_step(
    gates: Tensor, state: LSTMState, weight_hh: Tensor, bias_hh: Tensor | None = None
) -> tuple[Tensor, LSTMState]:
    """c_t = sigmoid(f) c_{t-1} + sigmoid(i) tanh(g), h_t = sigmoid(o) tanh(c_t): the definition."""
    i, f, g, o = (gates.to(state.h.dtype) + recurrent(state.h, weight_hh, bias_hh)).chunk(4, -1)
    c = f.sigmoid() * state.c + i.sigmoid() * g.tanh()
    h = o.sigmoid() * c.tanh()
    return h.to(gates.dtype), LSTMState(h, c)


def slstm_step(
    gates: Tensor, state: SLSTMState, weight_hh: Tensor, bias_hh: Tensor | None = None
) -> tuple[Tensor, SLSTMState]:
    """c_t = f c_{t-1} + i tanh(z), n_t = f n_{t-1} + i, h_t = sigmoid(o) c_t / n_t: the definition.

    i = exp(i~ - m_t) and f = exp(log sigmoid(f~) + m_{t-1} - m_t), m_t the larger of both exponents, so that
    none is above 0. Where n_{t-1} is 0, nothing has been read: m_{t-1} stands for -infinity.
    """
    i, f, z, o = (gates.to(state.h.dtype) + recurrent(state.h, weight_hh, bias_hh)).chunk(4, -1)
    before = logsigmoid(f) + state.m.masked_fill(state.n == 0, -torch.inf)
    m = torch.maximum(before, i)
    i, f = (i - m).exp(), (before - m).exp()
    c, n = f * state.c + i * z.tanh(), f * state.n + i
    h = o.sigmoid() * c / n
    return h.to(gates.dtype), SLSTMState(h, c, n, m)


class Cell(NamedTuple):
    """A row of cells: its parts of a gate, its step, and what it carries, h first."""

    parts: int
    step: Callable[..., tuple[Tensor, Any]]
    state: type[GRUState] | type[LSTMState] | type[SLSTMState]


CELLS: dict[str, Cell] = {
    "gru": Cell(3, gru_step, GRUState),
    "lstm": Cell(4, lstm_step, LSTMState),
    "slstm": Cell(4, slstm_step, SLSTMState),
}


# ----------------------------------------------------------------------------------------------
# The forms. weight, bias and state [states, B, H] in the state's dtype; they return (y, state_n).


def cell_loop(
    gates: Tensor,
    weight: Tensor,
    bias: Tensor,
    state: Tensor,
    reset: Tensor | None,
    lengths: Tensor | None,
    cell: str,
    reverse: bool,
) -> tuple[Tensor, Tensor]:
    """Plain torch: the step, once after the other. Differentiable any number of times."""
    if not gates.shape[1]:
        return gates[..., : state.shape[-1]].clone(), state.clone()
    step = partial(CELLS[cell].step, weight_hh=weight, bias_hh=bias)
    first = CELLS[cell].state(*state.unbind(0))
    y, last = unroll(step, (gates,), first, reset, lengths, reverse=reverse)
    return y, torch.stack(last)
