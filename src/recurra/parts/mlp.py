"""The two-layer perceptron of a block."""

from torch import Tensor, nn
from torch.nn.functional import gelu

from recurra.parts.linear import Linear

__all__ = ["MLP"]


class MLP(nn.Module):
    """y = W_2 gelu(W_1 x + b_1) + b_2, each position by itself; x, y [..., width], inside `hidden`."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.up, self.down = Linear(width, hidden), Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.down(gelu(self.up(x)))
        return y
