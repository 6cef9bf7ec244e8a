"""The recurrence of minGRU and minLSTM alone, gates fused, and how many bytes it must touch."""

from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from recurra.ops import gated

GATES = ("mingru_positive", "minlstm_positive")
FORWARD, BOTH = "forward", "forward+backward"


class Work(NamedTuple):
    """A call, and how many numbers a step and channel it must touch: every input and output once."""

    name: str
    call: Callable[[], object]
    touched: int


def draw(gate: str, shape: tuple[int, int, int], dtype: torch.dtype, device: str) -> Iterator[Work]:
    """Forward, and forward with backward, at [B, T, D]."""
    batch, time, width = shape
    parts = gated.FUSIONS[gate].parts
    x = torch.randn(batch, time, parts * width, device=device, dtype=dtype)
    dy = torch.randn(batch, time, width, device=device, dtype=dtype)
    h_0 = torch.randn(batch, width, device=device)

    def forward() -> Tensor:
        y: Tensor = gated.OP(x, h_0, None, None, gate, False)[0]
        return y

    def both() -> None:
        gated.BACKWARD(dy, h_0, x, h_0, forward(), None, None, gate, False)

    # Gates read, h written; then the gates, h and its gradient read, the gradient of the gates written.
    yield Work(FORWARD, forward, parts + 1)
    yield Work(BOTH, both, (parts + 1) + (2 * parts + 2))
