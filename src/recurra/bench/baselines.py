"""The layers of the figure of arXiv 2410.01201, each by a name that says which GRU or LSTM it is.

On a CPU and on a GPU alike (`benchmarks/gpu.py`): of this package it needs what the layers need.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

import recurra
from recurra.bench.report import Row
from recurra.blocks.stack import make

Build = Callable[[int], nn.Module]

MINGRU, MINLSTM, MAMBA = "recurra.MinGRU", "recurra.MinLSTM", "recurra Mamba block"
LOOP, COMPILED_LOOP, COMPILED_CELL = "loop over cells", "compiled loop", "loop over a compiled cell"
# What nn.GRU and nn.LSTM call. On a CPU torch's LSTM is oneDNN's; its GRU is a loop of torch's own.
CUDNN = {"GRU": "cuDNN", "LSTM": "cuDNN"}
ON_CPU = {"GRU": "nn.GRU (torch's C++ loop)", "LSTM": "nn.LSTM (oneDNN)"}
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
# Columns of a row of the figure; `graph`: as one CUDA graph.
PLACE = ("layer", "batch", "time", "width", "dtype", "graph")
COLUMNS = (
    *PLACE,
    *("repeats", "median_ms", "q1_ms", "q3_ms", "peak_mib", "first_call_s", "over_recurra", "skipped"),
)


class CellLoop(nn.Module):
    """nn.GRUCell or nn.LSTMCell in a Python loop over time: the traditional layer as papers time it."""

    def __init__(self, cell: type[nn.Module], width: int, compiled: bool = False) -> None:
        super().__init__()
        made: Any = cell(width, width)
        self.cell, self.compiled = torch.compile(made, dynamic=False) if compiled else made, compiled

    def forward(self, x: Tensor) -> Tensor:
        """[B, T, D] -> [B, T, D]."""
        state: Any = None
        hs, xs = [], x.transpose(0, 1)
        if self.compiled:
            xs = xs.contiguous()  # else a step's strides, and with them the compiled code, depend on T
        for x_t in xs:
            state = self.cell(x_t, state)
            hs.append(state[0] if isinstance(state, tuple) else state)
        return torch.stack(hs, 1)


def ours() -> dict[str, Build]:
    """minGRU, minLSTM and Mamba."""
    return {
        MINGRU: lambda d: recurra.MinGRU(d, d, batch_first=True),
        MINLSTM: lambda d: recurra.MinLSTM(d, d, batch_first=True),
        MAMBA: lambda d: make("mamba", d, 1)[0],
    }


def traditional(library: dict[str, str]) -> dict[str, Build]:
    """Each meaning of "a GRU" and "an LSTM": the library's kernel, a loop, the loop or its cell compiled."""
    found: dict[str, Build] = {}
    for kind, layer, cell in (("GRU", nn.GRU, nn.GRUCell), ("LSTM", nn.LSTM, nn.LSTMCell)):
        found |= _baselines(kind, library[kind], layer, cell)
    return found


def _baselines(kind: str, library: str, layer: Any, cell: type[nn.Module]) -> dict[str, Build]:
    return {
        f"{kind}, {library}": lambda d: layer(d, d, batch_first=True),
        f"{kind}, {LOOP}": lambda d: CellLoop(cell, d),
        f"{kind}, {COMPILED_LOOP}": lambda d: torch.compile(CellLoop(cell, d), dynamic=False),
        f"{kind}, {COMPILED_CELL}": lambda d: CellLoop(cell, d, compiled=True),
    }


def training_step(layer: nn.Module, x: Tensor, dy: Tensor) -> Callable[[], None]:
    """Forward and backward to the input and all parameters, under a fixed gradient of the output."""
    leaves = [x, *layer.parameters()]

    def step() -> None:
        y = layer(x)
        y = y[0] if isinstance(y, tuple) else y
        torch.autograd.grad(y, leaves, dy)

    return step


def rival(layer: str) -> str:
    """The layer of recurra that a layer is compared with."""
    return MINLSTM if "LSTM" in layer else MINGRU


def compare(rows: Sequence[Row]) -> None:
    """How often the time of recurra's layer goes into that of each other, under the same circumstances."""
    ours = {tuple(row[c] for c in PLACE): row["median_ms"] for row in rows if "median_ms" in row}
    for row in rows:
        own = ours.get((rival(row["layer"]), *(row[c] for c in PLACE[1:])))
        if own and "median_ms" in row:
            row["over_recurra"] = row["median_ms"] / own
