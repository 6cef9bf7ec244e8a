"""What GRU, LSTM and sLSTM share: torch.nn's parameters around a memory-mixing cell, and its stack."""

import math
from abc import ABC
from functools import partial
from typing import Any, ClassVar, TypeVar

import torch
from torch import Tensor, nn

from recurra.layers.linear_layer import check_input, project_steps
from recurra.layers.recurrent import Recurrent
from recurra.ops.cell import begin, in_state_dtype, run_cell, take_cell_step
from recurra.ops.project import project
from recurra.parts.kept import Kept

__all__ = ["CellLayer", "CellStack"]

C = TypeVar("C", bound="CellStack")


class CellLayer(nn.Module, ABC):
    """One direction of a cell of `ops.cell`: gates W_ih x_t + b_ih from one product, then the recurrence.

    weight_ih [parts * H, I], weight_hh [parts * H, H], bias_ih and bias_hh [parts * H], torch.nn's names,
    order and draws: uniform within 1 / sqrt(H). The state is kept in at least fp32.
    """

    CELL: ClassVar[str]
    PARTS: ClassVar[int]
    State: ClassVar[Any]

    bias_ih: Tensor | None
    bias_hh: Tensor | None

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        *,
        bias: bool = True,
        reverse: bool = False,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.input_size, self.hidden_size, self.reverse = input_size, hidden_size, reverse
        rows = self.PARTS * hidden_size
        empty = partial(torch.empty, device=device, dtype=dtype)
        self.weight_ih = nn.Parameter(empty(rows, input_size))
        self.weight_hh = nn.Parameter(empty(self._mixing_shape()))
        for name in ("bias_ih", "bias_hh"):
            self.register_parameter(name, nn.Parameter(empty(rows)) if bias else None)
        self._kept = Kept()
        self.reset_parameters()

    def _mixing_shape(self) -> tuple[int, ...]:
        return self.PARTS * self.hidden_size, self.hidden_size

    def reset_parameters(self) -> None:
        """Draw the parameters anew."""
        bound = 1 / math.sqrt(self.hidden_size)
        for p in self.parameters():
            nn.init.uniform_(p, -bound, bound)

    def forward(
        self,
        x: Tensor,
        state: Any = None,
        reset: Tensor | None = None,
        lengths: Tensor | None = None,
    ) -> tuple[Tensor, Any]:
        """h [B, T, H] and the last state, from x [B, T, I]; masks as in `ops.masks`."""
        check_input("x", x, ("batch", "time"), self.weight_ih)
        gates = project_steps(x, self.weight_ih, self.bias_ih)
        matrix = self.weight_hh, self.bias_hh
        return run_cell(self.CELL, gates, matrix, state, (reset, lengths), self.reverse)

    def step(self, x_t: Tensor, state: Any = None) -> tuple[Tensor, Any]:
        """One step: h_t [B, H] and the state, from x_t [B, I]. Raises ValueError where it runs backwards."""
        if self.reverse:
            raise ValueError("a layer with reverse=True reads the last input first: it has no step")
        check_input("x_t", x_t, ("batch",), self.weight_ih)
        gates = project(x_t, self.weight_ih, self.bias_ih)
        state = self.State(*begin(self.CELL, state, gates[:, None, : self.hidden_size]))
        matrix = self.weight_hh, self.bias_hh
        wide = self._kept(lambda: in_state_dtype(*matrix), *(p for p in matrix if isinstance(p, Tensor)))
        return take_cell_step(self.CELL, gates, state, *wide)

    def extra_repr(self) -> str:
        return (
            f"{self.input_size}, {self.hidden_size}, bias={self.bias_ih is not None}, reverse={self.reverse}"
        )


class CellStack(Recurrent):
    """A stack of cell layers with the signature of torch.nn's."""

    LAYER: ClassVar[type[CellLayer]]

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        make = partial(self.LAYER, hidden_size=hidden_size, bias=bias, device=device, dtype=dtype)
        super().__init__(make, input_size, hidden_size, num_layers, bias, batch_first, dropout, bidirectional)

    @classmethod
    def from_torch(cls: type[C], module: nn.RNNBase) -> C:
        """A copy of torch.nn's module of the same name, weights and all.

        Raises TypeError for a module of another kind, ValueError for a projected one (proj_size).
        """
        if module.mode != cls.__name__:
            raise TypeError(f"module must be an nn.{cls.__name__}, got {type(module).__name__}")
        if module.proj_size:
            raise ValueError(f"module has proj_size={module.proj_size}, which is not supported")
        p = next(module.parameters())
        sizes = (module.input_size, module.hidden_size, module.num_layers, module.bias, module.batch_first)
        ours = cls(*sizes, module.dropout, module.bidirectional, device=p.device, dtype=p.dtype)
        ours.load_state_dict(ours._renamed(module.state_dict()))
        return ours.train(module.training)

    def _renamed(self, weights: dict[str, Tensor]) -> dict[str, Tensor]:
        """A state dict of torch.nn's module under the names of this one."""
        directions = 2 if self.bidirectional else 1
        return {
            f"layers.{i}.{name}": weights[f"{name}_l{i // directions}{'_reverse' if layer.reverse else ''}"]
            for i, layer in enumerate(self.layers)
            for name, _ in layer.named_parameters()
        }
