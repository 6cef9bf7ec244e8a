"""The Transformer block, as small language models are built today: what the other blocks are judged by."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from recurra import state as states
from recurra.blocks.common import add_mlp, add_residual, check_fields, check_width, end_rows, later
from recurra.ops.attention import KVRoom, attention, attention_step, two_way_attention, with_room
from recurra.parts.heads import head_channels
from recurra.parts.linear import Linear
from recurra.parts.mlp import SwiGLU
from recurra.parts.norm import NORMS, LayerNorm, RMSNorm
from recurra.state import KVState

__all__ = ["TransformerBlock", "TransformerConfig"]


@dataclass(frozen=True)
class TransformerConfig:
    """Sizes of one block; heads 0: of about 64 channels, as `head_channels`; window 0: none; mlp 0: without.

    mlp: width of a two-layer MLP with as many weights; SwiGLU has three matrices, so two thirds of that;
    inner: its inner width itself, unless 0. kv_heads: keys and values, each for as many queries (arXiv
    2305.13245), 0: as many as heads. head: channels of each of the heads, 0: they share the width. eps: of
    the norms, 0: their own. bidirectional: every step sees all of its row, as in an encoder; there is no
    state then, no step, and no window.
    """

    width: int
    heads: int = 0
    window: int = 0
    base: float = 10000.0
    mlp: float = 4.0
    norm: str = "rms"
    dropout: float = 0.0
    inner: int = later(0)
    kv_heads: int = later(0)
    qkv_bias: bool = later(False)
    out_bias: bool = later(False)
    mlp_bias: bool = later(False)
    eps: float = later(0.0)
    bidirectional: bool = later(False)
    head: int = later(0)

    def __post_init__(self) -> None:
        if self.width < 2 or self.width % 2:
            raise ValueError(f"width must be even and at least 2, got {self.width}")
        if self.window < 0 or not 0 <= self.mlp < float("inf"):
            raise ValueError(f"window and mlp must not be negative, got {self.window} and {self.mlp}")
        if not self.base > 1:
            raise ValueError(f"base must be greater than 1, got {self.base}")
        if self.inner < 0 or (self.inner and not self.mlp):
            raise ValueError(f"inner must not be negative, nor without an mlp, got {self.inner}")
        if self.bidirectional and self.window:
            raise ValueError(f"window must be 0 in a bidirectional block, got {self.window}")
        self._check_heads()
        check_fields(self)

    def _check_heads(self) -> None:
        if self.head < 0 or self.head % 2 or (self.head and self.heads < 1):
            raise ValueError(f"head must be even and not negative, with a number of heads, got {self.head}")
        head_channels(self.width, 0 if self.head else self.heads, even=True)
        if self.kv_heads < 0 or (self.kv_heads and self.queries % self.kv_heads):
            raise ValueError(f"kv_heads must divide the heads, {self.queries}, got {self.kv_heads}")

    @property
    def channels(self) -> int:
        """Of a head: even."""
        return self.head or head_channels(self.width, self.heads, even=True)

    @property
    def queries(self) -> int:
        """Heads, each with a query of its own."""
        return self.heads or self.width // self.channels

    @property
    def pairs(self) -> int:
        """Heads with a key and a value of their own."""
        return self.kv_heads or self.queries

    @property
    def hidden(self) -> int:
        """Inner width of the SwiGLU: a multiple of 8 unless told otherwise."""
        return self.inner or -(-round(2 * self.mlp * self.width / 3) // 8) * 8


class TransformerBlock(nn.Module):
    """x += W_o attention(W_qkv norm(x));  x += swiglu(norm(x)), x [B, T, width]; biases only where asked for.

    Attention as in `ops.attention` (arXiv 1706.03762, section 3.2, rotary positions of 2104.09864), SwiGLU
    of 2002.05202. Departs from the paper as small models do today: norms in front, RMSNorm, rotary
    positions, no biases, dropout on the residual branches alone. weight qkv [.., width] = [q | k | v], heads
    in order, a rotary pair side by side; of several queries of a key the first of all keys come before the
    second. Raises ValueError that names the argument.
    """

    # Optional submodules: torch's own types know of none.
    mlp_norm: RMSNorm | LayerNorm | None
    mlp: SwiGLU | None

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.config = config
        width, eps, norm = config.width, config.eps, NORMS[config.norm]
        self.norm = norm(width, eps)
        read, kept = config.queries * config.channels, 2 * config.pairs * config.channels
        self.qkv = Linear(width, read + kept, bias=config.qkv_bias)
        self.out = Linear(read, width, bias=config.out_bias)
        self._heads_of = -1, config.pairs, config.channels
        self.mlp_norm = norm(width, eps) if config.mlp else None
        self.mlp = SwiGLU(width, config.hidden, config.mlp_bias) if config.mlp else None

    def forward(
        self,
        x: Tensor,
        state: KVState | None = None,
        reset: Tensor | None = None,
        lengths: Tensor | None = None,
    ) -> tuple[Tensor, KVState]:
        """y [B, T, width] and the last state, from x [B, T, width]; masks as in `ops.masks`."""
        check_width(x, ("batch", "time"), self.config.width)
        window, base = self.config.window, self.config.base
        if self.config.bidirectional:
            return self._both(x, state, reset, lengths)
        y, end = attention(self._heads(x), state, reset, lengths, window=window, base=base)
        y = end_rows(self._mix(x, y.flatten(-2)), lengths)
        return y, states.to(end, dtype=x.dtype)

    def _both(
        self, x: Tensor, state: KVState | None, reset: Tensor | None, lengths: Tensor | None
    ) -> tuple[Tensor, KVState]:
        """y, and an empty state: nothing goes on from a block that has seen the end."""
        if state is not None or reset is not None:
            raise ValueError("state and reset must be None in a bidirectional block")
        heads = self._heads(x)
        y = two_way_attention(heads, lengths, base=self.config.base)
        nothing = heads[:, :0, 0].transpose(1, 2)
        end = KVState(
            nothing, nothing, nothing, nothing, torch.zeros(len(x), dtype=torch.int64, device=x.device)
        )
        return end_rows(self._mix(x, y.flatten(-2)), lengths), end

    def step(self, x_t: Tensor, state: KVState | KVRoom | None = None) -> tuple[Tensor, KVState | KVRoom]:
        """One step: y_t [B, width] and the state, from x_t [B, width]."""
        check_width(x_t, ("batch",), self.config.width)
        if self.config.bidirectional:
            raise ValueError("a bidirectional block has no step: it reads what comes later")
        y, end = attention_step(self._heads(x_t), state, window=self.config.window, base=self.config.base)
        end = end if y.dtype == x_t.dtype else states.to(end, dtype=x_t.dtype)
        return self._mix(x_t, y.flatten(-2)), end

    def with_room(self, state: KVState) -> KVRoom:
        """A copy of the state into which steps can write: what a recorded step needs of a growing state."""
        return with_room(states.to(state, dtype=self.qkv.weight.dtype), self.config.window)

    def _heads(self, x: Tensor) -> Tensor:
        """The queries of every key, the keys and the values, [..., G + 2, kv_heads, channels]."""
        heads: Tensor = self.qkv(self.norm(x)).unflatten(-1, self._heads_of)
        return heads

    def _mix(self, x: Tensor, y: Tensor) -> Tensor:
        """What follows the attention, each position by itself."""
        p = self.config.dropout if self.training else 0.0
        if self.mlp is None or self.mlp_norm is None:
            return add_residual(self.out, y, x, p)
        return add_mlp(self.mlp, self.mlp_norm, self.out(y), x, p)
