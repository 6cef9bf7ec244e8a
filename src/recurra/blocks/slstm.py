"""xLSTM's sLSTM block: memory mixing in heads, and the feed-forward behind it."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import dropout

from recurra.blocks.common import add_mlp, check_fields, check_width, end_rows
from recurra.layers.slstm import forget_bias, heads_of
from recurra.ops.activation import activate
from recurra.ops.block_product import block_product
from recurra.ops.cell import begin, in_state_dtype, slstm, take_cell_step
from recurra.ops.linear import state_dtype
from recurra.parts.conv import CausalConv
from recurra.parts.kept import Kept
from recurra.parts.mlp import GEGLU
from recurra.parts.norm import NORMS, HeadNorm, LayerNorm, RMSNorm
from recurra.state import ConvState, SLSTMBlockState, SLSTMState

__all__ = ["SLSTMBlock", "SLSTMConfig"]


@dataclass(frozen=True)
class SLSTMConfig:
    """Sizes of one block, and its place among `depth` blocks: the published draws depend on it.

    heads 0: up to 4, as `heads_of`; conv 0, mlp 0: without. The feed-forward is mlp times
    as wide as the block, rounded up to a multiple of 64 as the published one is.
    """

    width: int
    index: int = 0
    depth: int = 1
    heads: int = 0
    conv: int = 4
    mlp: float = 1.3
    norm: str = "layer"
    dropout: float = 0.0

    def __post_init__(self) -> None:
        check_fields(self)
        heads_of(self.width, self.heads)
        if self.conv < 0:
            raise ValueError(f"conv must not be negative, got {self.conv}")

    @property
    def hidden(self) -> int:
        """Width of the feed-forward."""
        return 64 * math.ceil(self.mlp * self.width / 64)


def _feed_forward(config: SLSTMConfig) -> GEGLU:
    """Drawn as its authors draw it: up N(0, 2 / (5 D)), down N(0, 4 / (depth^2 D))."""
    mlp = GEGLU(config.width, config.hidden)
    nn.init.normal_(mlp.up.weight, std=(2 / (5 * config.width)) ** 0.5)
    nn.init.normal_(mlp.down.weight, std=2 / (config.depth * config.width**0.5))
    return mlp


class SLSTMBlock(nn.Module):
    """x += norm_heads(slstm(W_i u, W_f u, W_z v, W_o v)), v = norm(x), u = silu(conv(v));  x += mlp(norm(x)).

    xLSTM (arXiv 2405.04517, figure 10, post up-projection), x [B, T, width]. gates [4, heads, C, C]: i, f, z,
    o, each head from its own channels; weight_hh [heads, 4C, C] begins at zero, bias [4 width] as
    `forget_bias` and zeros. Departs from the authors' code in the biases of the norms,
    which begin at zero. Raises ValueError that names the argument.
    """

    # Optional submodules: torch's own types know of none.
    conv: CausalConv | None
    norm: RMSNorm | LayerNorm
    mlp_norm: RMSNorm | LayerNorm | None
    mlp: GEGLU | None

    def __init__(self, config: SLSTMConfig) -> None:
        super().__init__()
        self.config = config
        width, norm = config.width, NORMS[config.norm]
        self.heads = heads = heads_of(width, config.heads)
        channels, late = width // heads, config.index / max(1, config.depth - 1)
        self.norm, self.conv = norm(width), CausalConv(width, config.conv) if config.conv else None
        gates = torch.empty(4, heads, channels, channels)
        self.gates = nn.Parameter(gates.normal_(0, (2 / (5 * width)) ** 0.5))
        self.weight_hh = nn.Parameter(torch.zeros(heads, 4 * channels, channels))
        zeros = torch.zeros(width)
        self.bias = nn.Parameter(torch.cat([zeros, forget_bias(width, heads, late), zeros, zeros]))
        self._kept = Kept()
        self.head_norm = HeadNorm(heads, channels)
        self.mlp_norm = norm(width) if config.mlp else None
        self.mlp = _feed_forward(config) if config.mlp else None

    def forward(
        self,
        x: Tensor,
        state: SLSTMBlockState | None = None,
        reset: Tensor | None = None,
        lengths: Tensor | None = None,
    ) -> tuple[Tensor, SLSTMBlockState]:
        """y [B, T, width] and the last state, from x [B, T, width]; masks as in `ops.masks`."""
        check_width(x, ("batch", "time"), self.config.width)
        conv, cell = (None, None) if state is None else state
        u = v = self.norm(x)
        if self.conv is not None:
            u, conv = self.conv(v, conv, reset, lengths)
            u = activate("silu", u)
        y, cell = slstm(self._gates(u, v), self.weight_hh, self.bias, cell, reset, lengths)
        return end_rows(self._mix(x, y), lengths), SLSTMBlockState(_history(x, conv), cell)

    def step(self, x_t: Tensor, state: SLSTMBlockState | None = None) -> tuple[Tensor, SLSTMBlockState]:
        """One step: y_t [B, width] and the state, from x_t [B, width]."""
        check_width(x_t, ("batch",), self.config.width)
        conv, cell = (None, None) if state is None else state
        u = v = self.norm(x_t)
        if self.conv is not None:
            u, conv = self.conv.step(v, conv)
            u = activate("silu", u)
        gates = self._gates(u, v)
        first = SLSTMState(*begin("slstm", cell, gates[:, None, : self.config.width]))
        matrix = self.weight_hh, self.bias
        known = (p for p in matrix if isinstance(p, Tensor))
        y, cell = take_cell_step("slstm", gates, first, *self._kept(lambda: in_state_dtype(*matrix), *known))
        return self._mix(x_t, y), SLSTMBlockState(_history(x_t, conv), cell)

    def _gates(self, u: Tensor, v: Tensor) -> Tensor:
        """W_i u, W_f u, W_z v and W_o v side by side, each head from its own channels."""
        return block_product((u, v), self.gates.split(2))

    def _mix(self, x: Tensor, y: Tensor) -> Tensor:
        """What follows the recurrence, each position by itself."""
        p = self.config.dropout if self.training else 0.0
        y = self.head_norm(y.unflatten(-1, (self.heads, -1))).to(x.dtype)
        if self.mlp is None or self.mlp_norm is None:
            return activate("identity", dropout(y, p) if p else y, added=x)
        return add_mlp(self.mlp, self.mlp_norm, y, x, p)


def _history(x: Tensor, conv: ConvState | None) -> ConvState:
    """Without a conv the state holds no inputs."""
    if conv is not None:
        return conv
    return ConvState(x.new_zeros(x.shape[0], 0, x.shape[-1], dtype=state_dtype(x.dtype)))
