"""xLSTM's sLSTM: one layer, one direction."""

from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from recurra.layers.cell import CellLayer
from recurra.state import SLSTMState

__all__ = ["SLSTMLayer", "forget_bias", "heads_of"]


def heads_of(width: int, heads: int) -> int:
    """heads, or for 0 the most of up to 4, of 4 channels at least, that divide the width.

    A norm over two channels knows their order alone. Raises ValueError where heads do not divide the width.
    """
    if heads < 0 or (heads and width % heads):
        raise ValueError(f"heads must divide {width}, or be 0, got {heads}")
    return heads or next((n for n in (4, 3, 2) if width % n == 0 and width >= 4 * n), 1)


def forget_bias(width: int, heads: int, late: float = 0.0) -> Tensor:
    """The authors' first biases [width] of the forget gate: in each head from 5 down to -7 by a power law.

    late: how far into the stack a layer stands, 0 to 1; the later, the more units forget slowly.
    """
    channels = width // heads
    rank = torch.arange(channels) / max(1, channels - 1)
    return (5 - 12 * rank ** (0.3 + 1.3 * late)).repeat(heads)


class SLSTMLayer(CellLayer):
    """c_t = f c_{t-1} + i z, n_t = f n_{t-1} + i, h_t = o c_t / n_t; i = exp, f, o = sigmoid, z = tanh of
    their parts of W_ih x_t + b_ih + W_hh h_{t-1} + b_hh, in the order i, f, z, o (`ops.slstm`).

    xLSTM (arXiv 2405.04517, section 2.2). weight_hh [heads, 4C, C], C = H / heads: a head sees its own past
    alone; heads 0: up to 4, as `heads_of`. weight_hh begins at zero and the biases as the authors' do,
    `forget_bias` and zeros; weight_ih as in `CellLayer`.
    """

    CELL: ClassVar[str] = "slstm"
    PARTS: ClassVar[int] = 4
    State: ClassVar[Any] = SLSTMState

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        *,
        heads: int = 0,
        bias: bool = True,
        reverse: bool = False,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        self.heads = heads_of(hidden_size, heads)
        super().__init__(input_size, hidden_size, bias=bias, reverse=reverse, device=device, dtype=dtype)

    def _mixing_shape(self) -> tuple[int, ...]:
        channels = self.hidden_size // self.heads
        return self.heads, self.PARTS * channels, channels

    def reset_parameters(self) -> None:
        """Draw the parameters anew."""
        super().reset_parameters()
        nn.init.zeros_(self.weight_hh)
        for bias in (self.bias_ih, self.bias_hh):
            if bias is not None:
                nn.init.zeros_(bias)
        if self.bias_ih is not None:
            with torch.no_grad():
                forget = self.bias_ih[self.hidden_size : 2 * self.hidden_size]
                forget.copy_(forget_bias(self.hidden_size, self.heads))

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, heads={self.heads}"
