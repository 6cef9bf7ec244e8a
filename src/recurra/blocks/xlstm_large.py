"""The block of xLSTM-7B: an mLSTM at the width of the block, and a SwiGLU behind it."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from recurra.blocks.common import add_mlp, add_residual, check_fields, check_width, end_rows, later
from recurra.layers.slstm import heads_of
from recurra.ops.activation import activate, soft_cap
from recurra.ops.outer import outer, take_outer_step
from recurra.parts.linear import Linear
from recurra.parts.mlp import SwiGLU
from recurra.parts.norm import NORMS, HeadNorm, LayerNorm, RMSNorm
from recurra.state import OuterState

__all__ = ["XLSTMLargeBlock", "XLSTMLargeConfig"]


@dataclass(frozen=True)
class XLSTMLargeConfig:
    """Sizes of one block, and of how many blocks it is one: the published draws depend on it.

    heads 0: up to 4, as `heads_of`; keys, mlp: widths of queries and keys and of the SwiGLU over that of the
    block, the latter rounded up to a multiple of 64, or 0: without; inner: its inner width itself, unless 0;
    eps: of all norms.
    """

    width: int
    depth: int = 1
    heads: int = 0
    keys: float = 0.5
    mlp: float = 2.6667
    gate_cap: float = 15.0
    input_bias: float = -10.0
    eps: float = 1e-6
    norm: str = "rms"
    dropout: float = 0.0
    inner: int = later(0)

    def __post_init__(self) -> None:
        check_fields(self)
        if self.depth < 1:
            raise ValueError(f"depth must be at least 1, got {self.depth}")
        for field in ("keys", "gate_cap", "eps"):
            if not 0 < getattr(self, field) < math.inf:
                raise ValueError(f"{field} must be greater than 0, got {getattr(self, field)}")
        if self.inner < 0 or (self.inner and not self.mlp):
            raise ValueError(f"inner must not be negative, nor without an mlp, got {self.inner}")
        if not self.key_width:
            raise ValueError(f"keys must leave a width of at least 1, got {self.keys} of {self.width}")
        heads_of(math.gcd(self.width, self.key_width), self.heads)

    @property
    def key_width(self) -> int:
        """Width of the queries, and of the keys, of all heads together."""
        return int(self.keys * self.width)

    @property
    def hidden(self) -> int:
        """Width of the feed-forward; fractions of a channel do not make another 64."""
        return self.inner or 64 * math.ceil(max(1, int(self.mlp * self.width)) / 64)


class XLSTMLargeBlock(nn.Module):
    """x += W_down (sigmoid(o) norm_heads(mlstm(q, k, v, i, f)));  x += swiglu(norm(x)), x [B, T, width].

    xLSTM 7B (arXiv 2503.13427): [q | k | v | o] = W_qkvo norm(x), [i | f] = c tanh((W_if norm(x) +
    b) / c) with c = gate_cap, one for each head; mlstm is `ops.outer` with gate i, decay log sigmoid(f) and
    scale 1 / sqrt(K). Drawn as its port in transformers draws it, but for the gates o and that of the SwiGLU,
    which begin at zero there. Raises ValueError that names the argument.
    """

    # Optional submodules: torch's own types know of none.
    norm: RMSNorm | LayerNorm
    mlp_norm: RMSNorm | LayerNorm | None
    mlp: SwiGLU | None

    def __init__(self, config: XLSTMLargeConfig) -> None:
        super().__init__()
        self.config = config
        width, norm = config.width, NORMS[config.norm]
        self.heads = heads_of(math.gcd(width, config.key_width), config.heads)
        self.norm = norm(width, config.eps)
        self.qkvo = Linear(width, 2 * (config.key_width + width), bias=False)
        self.gates = Linear(width, 2 * self.heads)
        self.head_norm = HeadNorm(self.heads, width // self.heads, config.eps, bias=False)
        self.down = Linear(width, width, bias=False)
        self.mlp_norm = norm(width, config.eps) if config.mlp else None
        self.mlp = SwiGLU(width, config.hidden) if config.mlp else None
        self._draw()

    def _draw(self) -> None:
        config, mlp = self.config, self.mlp
        for up in (self.qkvo,) if mlp is None else (self.qkvo, mlp.up):
            nn.init.normal_(up.weight, std=(2 / (5 * config.width)) ** 0.5)
        for down in (self.down,) if mlp is None else (self.down, mlp.down):
            nn.init.normal_(down.weight, std=2 / (config.depth * down.in_features**0.5))
        nn.init.zeros_(self.gates.weight)
        with torch.no_grad():
            self.gates.bias[: self.heads] = config.input_bias
            self.gates.bias[self.heads :] = torch.linspace(3, 6, self.heads)

    def forward(
        self,
        x: Tensor,
        state: OuterState | None = None,
        reset: Tensor | None = None,
        lengths: Tensor | None = None,
    ) -> tuple[Tensor, OuterState]:
        """y [B, T, width] and the last state, from x [B, T, width]; masks as in `ops.masks`."""
        check_width(x, ("batch", "time"), self.config.width)
        inputs, o = self._inputs(self.norm(x))
        y, state = outer(*inputs, state, reset, lengths, scale=self._scale())
        return end_rows(self._mix(x, y, o), lengths), state

    def step(self, x_t: Tensor, state: OuterState | None = None) -> tuple[Tensor, OuterState]:
        """One step: y_t [B, width] and the state, from x_t [B, width]."""
        check_width(x_t, ("batch",), self.config.width)
        inputs, o = self._inputs(self.norm(x_t))
        y, state = take_outer_step(*inputs, state, scale=self._scale())
        return self._mix(x_t, y, o), state

    def _scale(self) -> float:
        return 1 / math.sqrt(self.config.key_width // self.heads)

    def _inputs(self, x: Tensor) -> tuple[tuple[Tensor, Tensor, Tensor, Tensor, Tensor], Tensor]:
        """q, k [..., H, K], v [..., H, V], decay and gate [..., H]; and o [..., width]."""
        keys, width = self.config.key_width, self.config.width
        *qkv, o = self.qkvo(x).split([keys, keys, width, width], -1)
        q, k, v = (part.unflatten(-1, (self.heads, -1)) for part in qkv)
        i, f = soft_cap(self.gates(x), self.config.gate_cap).to(q.dtype).chunk(2, -1)
        return (q, k, v, activate("log_sigmoid", f), i), o

    def _mix(self, x: Tensor, y: Tensor, o: Tensor) -> Tensor:
        """What follows the recurrence, each position by itself."""
        p = self.config.dropout if self.training else 0.0
        y = activate("sigmoid", o, self.head_norm(y))
        if self.mlp is None or self.mlp_norm is None:
            return add_residual(self.down, y, x, p)
        return add_mlp(self.mlp, self.mlp_norm, self.down(y), x, p)
