"""The RWKV-4 block: a time mix around running softmax averages, then a channel mix."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from recurra.blocks.rwkv import Masks, RWKVBlock, RWKVConfig, mixed, orthogonal, zero
from recurra.ops.activation import activate
from recurra.ops.linear import state_dtype
from recurra.ops.softmax import softmax, take_step
from recurra.parts.kept import Kept
from recurra.parts.linear import Linear
from recurra.state import ConvState, RWKV4State, SoftmaxState

__all__ = ["RWKV4Block", "RWKV4Config"]


@dataclass(frozen=True)
class RWKV4Config(RWKVConfig):
    """Sizes of one block, as in `RWKVConfig`."""


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
        self.key, self.receptance, self.out = (zero(Linear(width, width, bias=False)) for _ in range(3))
        self.value = orthogonal(Linear(width, width, bias=False))
        self._kept = Kept()

    def forward(
        self,
        x: Tensor,
        shift: ConvState | None,
        average: SoftmaxState | None,
        masks: Masks | None,
        added: Tensor | None = None,
    ) -> tuple[Tensor, ConvState, SoftmaxState]:
        mixes = self.mix_k, self.mix_v, self.mix_r
        (k, v, r), shift = mixed(x, mixes, shift, masks)
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


class RWKV4Block(RWKVBlock[RWKV4State]):
    """x += time_mix(norm(x));  x += channel_mix(norm(x)), x [B, T, width]; no biases but the norms'.

    "RWKV: Reinventing RNNs for the Transformer Era" (arXiv 2305.13048, section 3), drawn as its authors
    draw it: matrices orthogonal or zero, so that an untrained block changes nothing. Departs from the
    published models in an embedding of ordinary size: theirs is tiny, and grows behind the first norm.
    Raises ValueError that names the argument.
    """

    TIME_MIX, STATE = TimeMix, RWKV4State
