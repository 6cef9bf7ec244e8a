"""The RWKV-4 block: a time mix around running softmax averages, then a channel mix."""

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import dropout

from recurra.blocks.common import check_width, end_rows
from recurra.ops.activation import activate
from recurra.ops.linear import state_dtype
from recurra.ops.softmax import softmax, take_step
from recurra.ops.token_mix import token_mix, token_mix_step
from recurra.parts.kept import Kept
from recurra.parts.linear import Linear
from recurra.parts.norm import NORMS, LayerNorm, RMSNorm
from recurra.state import ConvState, RWKV4State, SoftmaxState

__all__ = ["RWKV4Block", "RWKV4Config"]


@dataclass(frozen=True)
class RWKV4Config:
    """Sizes of one block, and its place among `depth` blocks: the published draws depend on it.

    mlp: width of the channel mix over that of the block; 0: without. The block of index 0 begins with a norm
    of the embedding, as the published one does.
    """

    width: int
    index: int = 0
    depth: int = 1
    mlp: float = 4.0
    norm: str = "layer"
    dropout: float = 0.0

    def __post_init__(self) -> None:
        if self.width < 1:
            raise ValueError(f"width must be at least 1, got {self.width}")
        if not 0 <= self.index < self.depth:
            raise ValueError(f"index must lie in 0..depth - 1, got {self.index} of depth {self.depth}")
        if not 0 <= self.mlp < float("inf"):
            raise ValueError(f"mlp must not be negative, got {self.mlp}")
        if self.norm not in NORMS:
            raise ValueError(f"norm must be one of {', '.join(NORMS)}, got {self.norm!r}")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout must lie in [0, 1), got {self.dropout}")


class _Masks(NamedTuple):
    reset: Tensor | None
    lengths: Tensor | None


def _zero(linear: Linear) -> Linear:
    nn.init.zeros_(linear.weight)
    return linear


def _orthogonal(linear: Linear) -> Linear:
    rows, columns = linear.weight.shape
    nn.init.orthogonal_(linear.weight, gain=math.sqrt(max(1.0, rows / columns)))
    return linear


class TimeMix(nn.Module):
    """y = W_o (sigmoid(r) wkv(k, v)) + added with r, k, v = W x, each of its own mix of x_t and x_{t-1}.

    wkv is `ops.softmax` with decay exp(decay) and bonus (arXiv 2305.13048, section 3).
    """

    def __init__(self, config: RWKV4Config) -> None:
        super().__init__()
        width, late = config.width, config.index / max(1, config.depth - 1)
        channel, early = torch.arange(width), 1 - config.index / config.depth
        ramp, rank = channel / width, channel / max(1, width - 1)
        self.mix_k = nn.Parameter(ramp**early)
        self.mix_v = nn.Parameter(ramp**early + 0.3 * late)
        self.mix_r = nn.Parameter(ramp ** (0.5 * early))
        self.decay = nn.Parameter(-5 + 8 * rank ** (0.7 + 1.3 * late))
        self.bonus = nn.Parameter(math.log(0.3) + 0.5 * ((channel + 1) % 3 - 1))
        self.key, self.receptance, self.out = (_zero(Linear(width, width, bias=False)) for _ in range(3))
        self.value = _orthogonal(Linear(width, width, bias=False))
        self._kept = Kept()

    def forward(
        self,
        x: Tensor,
        shift: ConvState | None,
        average: SoftmaxState | None,
        masks: _Masks | None,
        added: Tensor | None = None,
    ) -> tuple[Tensor, ConvState, SoftmaxState]:
        mixes = self.mix_k, self.mix_v, self.mix_r
        (k, v, r), shift = token_mix(x, mixes, shift, *masks) if masks else token_mix_step(x, mixes, shift)
        k, v, r = self.key(k), self.value(v), self.receptance(r)
        decay, bonus = self._kept(self._rates, self.decay, self.bonus)
        if masks:
            y, average = softmax(k, v, average, *masks, decay=decay, bonus=bonus)
        else:
            y, average = take_step(k, v, average, decay, bonus)
        return self.out(activate("sigmoid", r, y), added), shift, average

    def _rates(self) -> tuple[Tensor, Tensor]:
        """Decay and bonus as `ops.softmax` takes them, in at least fp32."""
        decay, bonus = (p.to(state_dtype(p.dtype)) for p in (self.decay, self.bonus))
        return decay.exp(), bonus


class ChannelMix(nn.Module):
    """y = sigmoid(W_r x_r) W_v relu(W_k x_k)^2 + added, x_r and x_k mixed of x_t and x_{t-1} (section 3)."""

    def __init__(self, config: RWKV4Config) -> None:
        super().__init__()
        width, hidden = config.width, max(1, round(config.mlp * config.width))
        ramp = (torch.arange(width) / width) ** (1 - config.index / config.depth)
        self.mix_k, self.mix_r = nn.Parameter(ramp), nn.Parameter(ramp.clone())
        self.key = _orthogonal(Linear(width, hidden, bias=False))
        self.value = _zero(Linear(hidden, width, bias=False))
        self.receptance = _zero(Linear(width, width, bias=False))

    def forward(
        self, x: Tensor, shift: ConvState | None, masks: _Masks | None, added: Tensor | None = None
    ) -> tuple[Tensor, ConvState]:
        mixes = self.mix_k, self.mix_r
        (k, r), shift = token_mix(x, mixes, shift, *masks) if masks else token_mix_step(x, mixes, shift)
        value = self.value(activate("relu_square", self.key(k)))
        return activate("sigmoid", self.receptance(r), value, added), shift


class RWKV4Block(nn.Module):
    """x += time_mix(norm(x));  x += channel_mix(norm(x)), x [B, T, width]; no biases but the norms'.

    "RWKV: Reinventing RNNs for the Transformer Era" (arXiv 2305.13048, section 3), drawn as its authors
    draw it: matrices orthogonal or zero, so that an untrained block changes nothing. Departs from the
    published models in an embedding of ordinary size: theirs is tiny, and grows behind the first norm.
    Raises ValueError that names the argument.
    """

    # Optional submodules: torch's own types know of none.
    first_norm: RMSNorm | LayerNorm | None
    norm: RMSNorm | LayerNorm
    channel_norm: RMSNorm | LayerNorm | None
    channel_mix: ChannelMix | None

    def __init__(self, config: RWKV4Config) -> None:
        super().__init__()
        self.config = config
        norm = NORMS[config.norm]
        self.first_norm = None if config.index else norm(config.width)
        self.norm, self.time_mix = norm(config.width), TimeMix(config)
        self.channel_norm = norm(config.width) if config.mlp else None
        self.channel_mix = ChannelMix(config) if config.mlp else None

    def forward(
        self,
        x: Tensor,
        state: RWKV4State | None = None,
        reset: Tensor | None = None,
        lengths: Tensor | None = None,
    ) -> tuple[Tensor, RWKV4State]:
        """y [B, T, width] and the last state, from x [B, T, width]; masks as in `ops.masks`."""
        check_width(x, ("batch", "time"), self.config.width)
        y, state = self._run(x, state, _Masks(reset, lengths))
        return end_rows(y, lengths), state

    def step(self, x_t: Tensor, state: RWKV4State | None = None) -> tuple[Tensor, RWKV4State]:
        """One step: y_t [B, width] and the state, from x_t [B, width]."""
        check_width(x_t, ("batch",), self.config.width)
        return self._run(x_t, state, None)

    def _run(self, x: Tensor, state: RWKV4State | None, masks: _Masks | None) -> tuple[Tensor, RWKV4State]:
        """A whole sequence, or without masks one step."""
        time, average, channel = (None, None, None) if state is None else state
        x = x if self.first_norm is None else self.first_norm(x)
        if self.channel_mix is None or self.channel_norm is None:
            y, time, average = self.time_mix(self.norm(x), time, average, masks, self._beside(x))
            # Without a channel mix the state holds none of its inputs.
            channel = ConvState(time.x[:, :0]) if channel is None else channel
            return self._sum(x, y), RWKV4State(time, average, channel)
        y, time, average = self.time_mix(self.norm(x), time, average, masks)
        x, normed = self.channel_norm.after(x, self._drop(y))
        y, channel = self.channel_mix(normed, channel, masks, self._beside(x))
        return self._sum(x, y), RWKV4State(time, average, channel)

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
