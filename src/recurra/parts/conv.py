"""The short causal filter of a block, with its parameters."""

import math

import torch
from torch import Tensor, nn

from recurra.ops.causal_conv import causal_conv, conv_step
from recurra.parts.kept import Kept
from recurra.state import ConvState

__all__ = ["CausalConv"]


class CausalConv(nn.Module):
    """y_t = b + sum_{j<K} w_j x_{t-K+1+j}, each channel by itself (`ops.causal_conv`); drawn as nn.Conv1d.

    weight [D, K], bias [D]; the state holds the last K - 1 inputs, in at least fp32.
    """

    def __init__(self, width: int, taps: int) -> None:
        super().__init__()
        bound = 1 / math.sqrt(taps)
        self.weight = nn.Parameter(torch.empty(width, taps).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.empty(width).uniform_(-bound, bound))
        self._kept = Kept()

    def forward(
        self,
        x: Tensor,
        state: ConvState | None = None,
        reset: Tensor | None = None,
        lengths: Tensor | None = None,
    ) -> tuple[Tensor, ConvState]:
        return causal_conv(x, self.weight, self.bias, state, reset, lengths)

    def step(self, x_t: Tensor, state: ConvState | None = None) -> tuple[Tensor, ConvState]:
        """One step: y_t [B, D] and the state, from x_t [B, D]."""
        if state is None:
            y, state = self(x_t[:, None])
            return y[:, 0], state
        turned = self._kept(lambda: self.weight.t().contiguous(), self.weight)
        return conv_step(x_t, state, turned.t(), self.bias)

    def extra_repr(self) -> str:
        return "{}, {}".format(*self.weight.shape)
