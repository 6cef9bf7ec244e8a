"""The RWKV-5 block: a time mix around a matrix for each head, then a channel mix."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from recurra.blocks.rwkv import Masks, RWKVBlock, RWKVConfig, mixed, orthogonal, zero
from recurra.ops.activation import activate
from recurra.ops.linear import state_dtype
from recurra.ops.norm import LAYER_EPS
from recurra.ops.outer import outer, take_outer_step
from recurra.parts.heads import head_channels
from recurra.parts.kept import Kept
from recurra.parts.linear import Linear
from recurra.parts.norm import HeadNorm
from recurra.state import ConvState, OuterState, RWKV5State

__all__ = ["RWKV5Block", "RWKV5Config"]


@dataclass(frozen=True)
class RWKV5Config(RWKVConfig):
    """Sizes of one block, as in `RWKVConfig`; heads 0: of about 64 channels, as `head_channels`.

    divisor: of what a head reads, in front of its norm with 1e-5.
    """

    mlp: float = 3.5
    heads: int = 0
    divisor: float = 8.0

    def __post_init__(self) -> None:
        super().__post_init__()
        head_channels(self.width, self.heads)
        if not 0 < self.divisor < float("inf"):
            raise ValueError(f"divisor must be greater than 0, got {self.divisor}")


class TimeMix(nn.Module):
    """y = W_o (silu(g) norm(wkv)) + added with r, k, v, g = W x, each of its own mix of x_t and x_{t-1}.

    wkv is `ops.outer` of r, k, v with decay -exp(decay) [D] and a bonus [D]; the norm is of each head
    (arXiv 2404.05892, section 4.1).
    """

    def __init__(self, config: RWKV5Config) -> None:
        super().__init__()
        width, late = config.width, config.index / max(1, config.depth - 1)
        self.channels = head_channels(width, config.heads)
        channel, early = torch.arange(width), 1 - config.index / config.depth
        ramp, rank = channel / width, channel / max(1, width - 1)
        self.mix_k, self.mix_v = nn.Parameter(ramp**early), nn.Parameter(ramp**early + 0.3 * late)
        self.mix_r, self.mix_g = nn.Parameter(ramp ** (0.5 * early)), nn.Parameter(ramp ** (0.5 * early))
        self.decay = nn.Parameter(-6 + 5 * rank ** (0.7 + 1.3 * late))
        self.bonus = nn.Parameter(late * (1 - rank) + 0.1 * ((channel + 1) % 3 - 1))
        self.key, self.gate = (orthogonal(Linear(width, width, bias=False), 0.1) for _ in range(2))
        self.receptance, self.value = (orthogonal(Linear(width, width, bias=False)) for _ in range(2))
        # A norm of what is divided is a norm with so much more beside the variance.
        eps = LAYER_EPS * config.divisor**2
        self.norm = HeadNorm(width // self.channels, self.channels, eps)
        self.out = zero(Linear(width, width, bias=False))
        self._kept = Kept()

    def forward(
        self,
        x: Tensor,
        shift: ConvState | None,
        memory: OuterState | None,
        masks: Masks | None,
        added: Tensor | None = None,
    ) -> tuple[Tensor, ConvState, OuterState]:
        mixes = self.mix_r, self.mix_k, self.mix_v, self.mix_g
        (r, k, v, g), shift = mixed(x, mixes, shift, masks)
        parts = zip((self.receptance, self.key, self.value), (r, k, v), strict=True)
        r, k, v = (part(x).unflatten(-1, (-1, self.channels)) for part, x in parts)
        rates, bonus = self._kept(self._rates, self.decay, self.bonus)
        decay = rates.to(k.dtype).expand(k.shape)
        if masks:
            y, memory = outer(r, k, v, decay, None, memory, *masks, bonus=bonus)
        else:
            y, memory = take_outer_step(r, k, v, decay, None, memory, bonus=bonus)
        return self.out(activate("silu", self.gate(g), self.norm(y)), added), shift, memory

    def _rates(self) -> tuple[Tensor, Tensor]:
        """Logarithms of the decays, and the bonus in at least fp32, [heads, channels]."""
        heads = (-1, self.channels)
        rates, bonus = (p.to(state_dtype(p.dtype)).view(heads) for p in (self.decay, self.bonus))
        return -rates.exp().to(self.decay.dtype), bonus


class RWKV5Block(RWKVBlock[RWKV5State]):
    """x += time_mix(norm(x));  x += channel_mix(norm(x)), x [B, T, width]; no biases but the norms'.

    "Eagle and Finch" (arXiv 2404.05892, section 4.1), as its authors' code 5.2 computes it; matrices begin
    orthogonal, keys and gates a tenth of that, or zero, so that an untrained block changes nothing. Departs
    from the published models in an embedding of ordinary size, and in a channel mix that is not rounded to
    a multiple of 32. Raises ValueError that names the argument.
    """

    TIME_MIX, STATE = TimeMix, RWKV5State
