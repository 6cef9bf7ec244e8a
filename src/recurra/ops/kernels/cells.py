"""GRU, LSTM and sLSTM on a GPU, the whole loop over time in one launch: what csrc/cell.h is on a CPU.

A program owns 16 rows of the batch and one head, whose recurrent weights it holds from the first step to the
last; as there, nothing but y is kept for the backward pass. That takes heads of up to 64 channels
(`kernels.takes_cell`): a full GRU or LSTM is one head of its whole width. What is larger does not fit a
processor together with its gradients, and runs step by step in plain torch. For 16-bit gates the factors of
the recurrent product are cut off to TF32; its sums and the states are fp32. The block sizes are not yet
measured on a card.
"""

from functools import cache
from typing import Any, NamedTuple

import torch
from torch import Tensor

from recurra.ops import native
from recurra.ops.kernels.cell_loops import remember, run, run_back
from recurra.ops.kernels.tiles import View

_ROWS = 16  # the least that a product of tiles has
_STATES = {"gru": 1, "lstm": 2, "slstm": 4}

Masks = tuple[Tensor | None, Tensor | None]


def _view(x: Tensor) -> View:
    return View(x, x.stride(0), x.stride(1))


def _precision(x: Tensor) -> str:
    return "ieee" if x.dtype == torch.float32 else "tf32"


@cache
def _stages(channels: int, device: torch.device) -> int:
    """How far loads go ahead: by 3 steps sLSTM takes 176 KB where heads have over 32 channels."""
    if channels <= 32 or device.type == "cpu":  # in Triton's interpreter
        return 3
    card = torch.cuda.get_device_properties(device)
    return 3 if getattr(card, "shared_memory_per_block_optin", 0) >= 176 * 2**10 else 1


class _Walk(NamedTuple):
    """What every launch of a cell shares; channels: of a head."""

    kind: str
    shape: tuple[int, int, int, int]  # batch, time, width, channels
    masks: Masks
    reverse: bool

    def launch(self, kernel: Any, *tensors: Any, **how: str) -> None:
        """Run a kernel on every tile of rows and every head."""
        batch, _, width, channels = self.shape
        states = _STATES[self.kind]
        cell = {"CELL": self.kind, "PARTS": 3 + (states > 1), "STATES": states, "REVERSE": self.reverse}
        sizes = {"BLOCK_B": _ROWS, "BLOCK_C": max(16, 1 << (channels - 1).bit_length())}
        grid = (-(-batch // _ROWS), width // channels)
        ahead = _stages(channels, tensors[0].data.device)
        sizes |= {"num_warps": 4 if channels <= 32 else 8, "num_stages": ahead}
        kernel[grid](*tensors, *self.masks, *self.shape, **cell, **sizes, **how)


def _walk(kind: str, x: Tensor, width: int, weight: Tensor, masks: Masks, reverse: bool) -> _Walk:
    reset, lengths = masks
    flags = None if reset is None else reset.view(torch.uint8)
    return _Walk(kind, (x.shape[0], x.shape[1], width, weight.shape[-1]), (flags, lengths), reverse)


def cell(
    kind: str,
    gates: Tensor,
    weight: Tensor,
    bias: Tensor,
    state: Tensor,
    reset: Tensor | None,
    lengths: Tensor | None,
    reverse: bool,
) -> tuple[Tensor, Tensor]:
    """As `native.cell`."""
    y, state = native.empty_rows(gates, state.shape[2]), state.contiguous()
    if not y.numel():
        return y, state.clone()
    x, state_n = native.as_rows(gates), torch.empty_like(state)
    walk = _walk(kind, x, state.shape[2], weight, (reset, lengths), reverse)
    matrix = (weight.contiguous(), bias.contiguous())
    with torch.cuda.device_of(x):
        walk.launch(run, _view(x), *matrix, _view(y), state, state_n, PRECISION=_precision(x))
    return y, state_n


def cell_backward(
    kind: str,
    cotangents: tuple[Tensor, Tensor],
    gates: Tensor,
    weight: Tensor,
    state: Tensor,
    mixed: tuple[Tensor, Tensor],
    masks: Masks,
    reverse: bool,
) -> tuple[Tensor, Tensor]:
    """As `native.cell_backward`."""
    (dy, dstate_n), (before, recurrent) = cotangents, mixed
    dgates, state, before = native.empty_as(gates), state.contiguous(), before.contiguous()
    dstate_n = dstate_n.to(state.dtype).contiguous()
    if not before.numel():
        return dgates, dstate_n.clone()
    x, dy, dstate = native.as_rows(gates), native.as_rows(dy.to(gates.dtype)), torch.empty_like(state)
    walk, weight = _walk(kind, x, state.shape[2], weight, masks, reverse), weight.contiguous()
    memory = before.new_empty(len(state) - 1, *before.shape)
    steps = (_view(x), before, recurrent, memory)
    ends = (_view(dy), _view(dgates), dstate_n, dstate)
    with torch.cuda.device_of(x):
        if len(state) > 1:
            walk.launch(remember, *steps, state)
        walk.launch(run_back, *steps, weight, *ends, PRECISION=_precision(x))
    return dgates, dstate
