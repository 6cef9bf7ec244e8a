"""xLSTM's mLSTM block: a matrix memory for each head between two projections."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from recurra.blocks.common import add_residual, check_fields, check_width, end_rows
from recurra.ops.activation import activate
from recurra.ops.block_product import block_product
from recurra.ops.outer import outer, take_outer_step
from recurra.parts.conv import CausalConv
from recurra.parts.linear import Linear
from recurra.parts.norm import NORMS, HeadNorm, LayerNorm, RMSNorm
from recurra.state import MLSTMState

__all__ = ["MLSTMBlock", "MLSTMConfig"]

# Channels that a projection mixes; and what the width of the memory is a multiple of.
_MIXED, _ROUND = 4, 64


@dataclass(frozen=True)
class MLSTMConfig:
    """Sizes of one block, and its place among `depth` blocks: the published draws depend on it.

    The memory is expansion times as wide as the block, rounded up to a multiple of 64.
    """

    width: int
    index: int = 0
    depth: int = 1
    heads: int = 4
    expansion: float = 2.0
    conv: int = 4
    norm: str = "layer"
    dropout: float = 0.0

    def __post_init__(self) -> None:
        for field in ("width", "heads", "conv"):
            if getattr(self, field) < 1:
                raise ValueError(f"{field} must be at least 1, got {getattr(self, field)}")
        if not 0 < self.expansion < float("inf"):
            raise ValueError(f"expansion must be greater than 0, got {self.expansion}")
        if self.hidden % self.heads:
            raise ValueError(f"heads must divide {self.hidden}, got {self.heads}")
        check_fields(self)

    @property
    def hidden(self) -> int:
        """Width of the memory, of all heads together."""
        return _ROUND * math.ceil(self.expansion * self.width / _ROUND)


class MLSTMBlock(nn.Module):
    """x += W_down (silu(z) (norm_heads(mlstm(q, k, v, i, f)) + skip u)), u = silu(conv(m)).

    xLSTM (arXiv 2405.04517, figure 11, pre up-projection): [m | z] = W_up norm(x); q, k of u and v of m, four
    channels at a time, weight qkv [3, hidden / 4, 4, 4]; [i | f] = W_if [q | k | v] + b, one for each head;
    mlstm is `ops.outer` with gate i, decay log sigmoid(f) and scale 1 / sqrt(C); x [B, T, width]. Drawn as
    its authors draw it. Departs from their code in the bias of the norm in front, which begins at zero.
    Raises ValueError that names the argument.
    """

    norm: RMSNorm | LayerNorm

    def __init__(self, config: MLSTMConfig) -> None:
        super().__init__()
        self.config = config
        width, hidden, heads = config.width, config.hidden, config.heads
        self.norm = NORMS[config.norm](width)
        self.up, self.down = Linear(width, 2 * hidden, bias=False), Linear(hidden, width, bias=False)
        self.conv = CausalConv(hidden, config.conv)
        self.qkv = nn.Parameter(torch.empty(3, hidden // _MIXED, _MIXED, _MIXED))
        self.gates = Linear(3 * hidden, 2 * heads)
        self.head_norm = HeadNorm(heads, hidden // heads, bias=False)
        self.skip = nn.Parameter(torch.ones(hidden))
        self._draw()

    def _draw(self) -> None:
        config, gates = self.config, self.gates
        for p in (self.up.weight, self.qkv):
            nn.init.normal_(p, std=(2 / (5 * config.width)) ** 0.5)
        nn.init.normal_(self.down.weight, std=2 / (config.depth * config.width**0.5))
        nn.init.zeros_(gates.weight)
        with torch.no_grad():
            gates.bias[: config.heads].normal_(0, 0.1)
            gates.bias[config.heads :] = torch.linspace(3, 6, config.heads)

    def forward(
        self,
        x: Tensor,
        state: MLSTMState | None = None,
        reset: Tensor | None = None,
        lengths: Tensor | None = None,
    ) -> tuple[Tensor, MLSTMState]:
        """y [B, T, width] and the last state, from x [B, T, width]; masks as in `ops.masks`."""
        check_width(x, ("batch", "time"), self.config.width)
        conv, memory = (None, None) if state is None else state
        m, z = self.up(self.norm(x)).chunk(2, -1)
        u, conv = self.conv(m, conv, reset, lengths)
        u = activate("silu", u)
        y, memory = outer(*self._inputs(u, m), memory, reset, lengths, scale=self._scale())
        return end_rows(self._residual(x, y, u, z), lengths), MLSTMState(conv, memory)

    def step(self, x_t: Tensor, state: MLSTMState | None = None) -> tuple[Tensor, MLSTMState]:
        """One step: y_t [B, width] and the state, from x_t [B, width]."""
        check_width(x_t, ("batch",), self.config.width)
        if state is None:
            y, state = self(x_t[:, None])
            return y[:, 0], state
        m, z = self.up(self.norm(x_t)).chunk(2, -1)
        u, conv = self.conv.step(m, state.conv)
        u = activate("silu", u)
        y, memory = take_outer_step(*self._inputs(u, m), state.memory, scale=self._scale())
        return self._residual(x_t, y, u, z), MLSTMState(conv, memory)

    def _scale(self) -> float:
        return 1 / math.sqrt(self.config.hidden // self.config.heads)

    def _inputs(self, u: Tensor, m: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """q, k, v [..., H, C], decay and gate [..., H] from what the conv has seen and what it has not."""
        qkv = block_product((u, m), self.qkv.split([2, 1]))
        i, f = self.gates(qkv).chunk(2, -1)
        q, k, v = qkv.unflatten(-1, (3, self.config.heads, -1)).unbind(-3)
        return q, k, v, activate("log_sigmoid", f), i.to(q.dtype)

    def _residual(self, x: Tensor, y: Tensor, u: Tensor, z: Tensor) -> Tensor:
        seen = activate("identity", u, self.skip.expand_as(u), self.head_norm(y))
        return add_residual(
            self.down, activate("silu", z, seen), x, self.config.dropout if self.training else 0.0
        )
