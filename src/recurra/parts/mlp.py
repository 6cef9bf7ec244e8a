"""What a block does with each position by itself."""

from typing import ClassVar

from torch import Tensor, nn

from recurra.ops.activation import activate
from recurra.parts.linear import Linear

__all__ = ["GEGLU", "MLP", "SwiGLU"]


class MLP(nn.Module):
    """y = W_2 gelu(W_1 x + b_1) + b_2 + added, each position by itself; x [..., width]."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.up, self.down = Linear(width, hidden), Linear(hidden, width)

    def forward(self, x: Tensor, added: Tensor | None = None) -> Tensor:
        y: Tensor = self.down(activate("gelu", self.up(x)), added)
        return y


class SwiGLU(nn.Module):
    """y = W_2 (silu(G x) * U x) + added, each position by itself; x [..., width], G, U, W_2 without biases.

    arXiv 2002.05202, equation 6. up [2 hidden, width] = [G | U]; bias: all three have one.
    """

    ACTIVATION: ClassVar[str] = "silu"

    def __init__(self, width: int, hidden: int, bias: bool = False) -> None:
        super().__init__()
        self.up, self.down = Linear(width, 2 * hidden, bias=bias), Linear(hidden, width, bias=bias)

    def forward(self, x: Tensor, added: Tensor | None = None) -> Tensor:
        gate, value = self.up(x).chunk(2, -1)
        y: Tensor = self.down(activate(self.ACTIVATION, gate, value), added)
        return y


class GEGLU(SwiGLU):
    """y = W_2 (gelu(G x) * U x) + added: `SwiGLU` with another gate (arXiv 2002.05202, equation 6)."""

    ACTIVATION: ClassVar[str] = "gelu"
