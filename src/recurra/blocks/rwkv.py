"""What RWKV's blocks have in common: a time mix, then a channel mix, each of this step and the one before."""

import math
from dataclasses import dataclass
from typing import Any, ClassVar, Generic, NamedTuple, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.functional import dropout

from recurra.blocks.common import check_fields, check_width, end_rows, later
from recurra.ops.activation import activate
from recurra.ops.token_mix import token_mix, token_mix_step
from recurra.parts.linear import Linear
from recurra.parts.norm import NORMS, LayerNorm, RMSNorm
from recurra.state import ConvState

__all__ = ["ChannelMix", "Masks", "RWKVBlock", "RWKVConfig", "mixed", "orthogonal", "zero"]

S = TypeVar("S", bound=tuple[Any, ...])


@dataclass(frozen=True)
class RWKVConfig:
    """Sizes of one block, and its place among `depth` blocks: the published draws depend on it.

    mlp: width of the channel mix over that of the block; 0: without. eps: of the norms, 0: their own. The
    block of index 0 begins with a norm of the embedding, as the published one does.
    """

    width: int
    index: int = 0
    depth: int = 1
    mlp: float = 4.0
    norm: str = "layer"
    dropout: float = 0.0
    eps: float = later(0.0)

    def __post_init__(self) -> None:
        check_fields(self)


class Masks(NamedTuple):
    """reset and lengths as in `ops.masks`."""

    reset: Tensor | None
    lengths: Tensor | None


def zero(linear: Linear) -> Linear:
    """Drawn as nothing."""
    nn.init.zeros_(linear.weight)
    return linear


def orthogonal(linear: Linear, gain: float = 1.0) -> Linear:
    """Drawn orthogonal, larger where there are more outputs than inputs."""
    rows, columns = linear.weight.shape
    nn.init.orthogonal_(linear.weight, gain=gain * math.sqrt(max(1.0, rows / columns)))
    return linear


def mixed(
    x: Tensor, mixes: tuple[Tensor, ...], shift: ConvState | None, masks: Masks | None
) -> tuple[tuple[Tensor, ...], ConvState]:
    """`ops.token_mix` of a whole sequence, or without masks of one step."""
    return token_mix(x, mixes, shift, *masks) if masks else token_mix_step(x, mixes, shift)


class ChannelMix(nn.Module):
    """y = sigmoid(W_r x_r) W_v relu(W_k x_k)^2 + added, x_r and x_k mixed of x_t and x_{t-1} (section 3)."""

    def __init__(self, config: RWKVConfig) -> None:
        super().__init__()
        width, hidden = config.width, max(1, round(config.mlp * config.width))
        ramp = (torch.arange(width) / width) ** (1 - config.index / config.depth)
        self.mix_k, self.mix_r = nn.Parameter(ramp), nn.Parameter(ramp.clone())
        self.key = orthogonal(Linear(width, hidden, bias=False))
        self.value = zero(Linear(hidden, width, bias=False))
        self.receptance = zero(Linear(width, width, bias=False))

    def forward(
        self, x: Tensor, shift: ConvState | None, masks: Masks | None, added: Tensor | None = None
    ) -> tuple[Tensor, ConvState]:
        mixes = self.mix_k, self.mix_r
        (k, r), shift = mixed(x, mixes, shift, masks)
        value = self.value(activate("relu_square", self.key(k)))
        return activate("sigmoid", self.receptance(r), value, added), shift


class RWKVBlock(nn.Module, Generic[S]):
    """x += time_mix(norm(x));  x += channel_mix(norm(x)), x [B, T, width]; no biases but the norms'.

    A paper's block names its time mix, time_mix(x, shift, memory, masks, added), and its state: the last
    input of the time mix, its memory, and the last input of the channel mix.
    """

    TIME_MIX: ClassVar[Any]
    STATE: ClassVar[Any]

    # Optional submodules: torch's own types know of none.
    first_norm: RMSNorm | LayerNorm | None
    norm: RMSNorm | LayerNorm
    channel_norm: RMSNorm | LayerNorm | None
    channel_mix: ChannelMix | None

    def __init__(self, config: RWKVConfig) -> None:
        super().__init__()
        self.config = config
        width, eps, norm = config.width, config.eps, NORMS[config.norm]
        self.first_norm = None if config.index else norm(width, eps)
        self.norm, self.time_mix = norm(width, eps), self.TIME_MIX(config)
        self.channel_norm = norm(width, eps) if config.mlp else None
        self.channel_mix = ChannelMix(config) if config.mlp else None

    def forward(
        self,
        x: Tensor,
        state: S | None = None,
        reset: Tensor | None = None,
        lengths: Tensor | None = None,
    ) -> tuple[Tensor, S]:
        """y [B, T, width] and the last state, from x [B, T, width]; masks as in `ops.masks`."""
        check_width(x, ("batch", "time"), self.config.width)
        y, state = self._run(x, state, Masks(reset, lengths))
        return end_rows(y, lengths), state

    def step(self, x_t: Tensor, state: S | None = None) -> tuple[Tensor, S]:
        """One step: y_t [B, width] and the state, from x_t [B, width]."""
        check_width(x_t, ("batch",), self.config.width)
        return self._run(x_t, state, None)

    def _run(self, x: Tensor, state: S | None, masks: Masks | None) -> tuple[Tensor, S]:
        """A whole sequence, or without masks one step."""
        time, memory, channel = (None, None, None) if state is None else state
        x = x if self.first_norm is None else self.first_norm(x)
        if self.channel_mix is None or self.channel_norm is None:
            y, time, memory = self.time_mix(self.norm(x), time, memory, masks, self._beside(x))
            # Without a channel mix the state holds none of its inputs.
            channel = ConvState(time.x[:, :0]) if channel is None else channel
            return self._sum(x, y), self.STATE(time, memory, channel)
        y, time, memory = self.time_mix(self.norm(x), time, memory, masks)
        x, normed = self.channel_norm.after(x, self._drop(y))
        y, channel = self.channel_mix(normed, channel, masks, self._beside(x))
        return self._sum(x, y), self.STATE(time, memory, channel)

    def _drops(self) -> bool:
        return self.training and self.config.dropout > 0

    def _drop(self, y: Tensor) -> Tensor:
        return dropout(y, self.config.dropout) if self._drops() else y

    def _beside(self, x: Tensor) -> Tensor | None:
        """What a mix adds in its last pass: the residual, unless dropout stands between."""
        return None if self._drops() else x

    def _sum(self, x: Tensor, y: Tensor) -> Tensor:
        """x + y, where y has not taken it in."""
        return x + self._drop(y) if self._drops() else y
