"""The Aaren block: a Transformer's, with attention that runs in constant memory."""

from dataclasses import dataclass

from torch import Tensor, nn

from recurra.blocks.common import add_mlp, add_residual, check_fields, check_width, end_rows
from recurra.layers.aaren import AarenLayer
from recurra.parts.heads import head_channels
from recurra.parts.linear import Linear
from recurra.parts.mlp import MLP
from recurra.parts.norm import NORMS, LayerNorm, RMSNorm
from recurra.state import SoftmaxState

__all__ = ["AarenBlock", "AarenConfig"]


@dataclass(frozen=True)
class AarenConfig:
    """Sizes of one block; heads 0: of about 64 channels, as `head_channels`; mlp 0: without."""

    width: int
    heads: int = 0
    mlp: float = 4.0
    norm: str = "rms"
    dropout: float = 0.0

    def __post_init__(self) -> None:
        check_fields(self)
        head_channels(self.width, self.heads)


class AarenBlock(nn.Module):
    """x += W_o aaren(norm(x)) + b_o;  x += mlp(norm(x)), x [B, T, width].

    "Attention as an RNN" (arXiv 2405.13956, section 3.3): the Transformer's block, its self-attention
    replaced by `AarenLayer`, one vector more of parameters. Departs from the paper in RMSNorm
    (`norm="layer"` is the paper's), and perhaps in where norms stand: in front. Raises ValueError that
    names the argument.
    """

    # Optional submodules: torch's own types know of none.
    norm: RMSNorm | LayerNorm
    mlp_norm: RMSNorm | LayerNorm | None
    mlp: MLP | None

    def __init__(self, config: AarenConfig) -> None:
        super().__init__()
        self.config = config
        width, norm = config.width, NORMS[config.norm]
        self.norm, self.layer = norm(width), AarenLayer(width, width, heads=config.heads)
        self.out = Linear(width, width)
        self.mlp_norm = norm(width) if config.mlp else None
        self.mlp = MLP(width, max(1, round(config.mlp * width))) if config.mlp else None

    def forward(
        self,
        x: Tensor,
        state: SoftmaxState | None = None,
        reset: Tensor | None = None,
        lengths: Tensor | None = None,
    ) -> tuple[Tensor, SoftmaxState]:
        """y [B, T, width] and the last state, from x [B, T, width]; masks as in `ops.masks`."""
        check_width(x, ("batch", "time"), self.config.width)
        y, state = self.layer(self.norm(x), state, reset, lengths)
        return end_rows(self._mix(x, y), lengths), state

    def step(self, x_t: Tensor, state: SoftmaxState | None = None) -> tuple[Tensor, SoftmaxState]:
        """One step: y_t [B, width] and the state, from x_t [B, width]."""
        check_width(x_t, ("batch",), self.config.width)
        y, state = self.layer.step(self.norm(x_t), state)
        return self._mix(x_t, y), state

    def _mix(self, x: Tensor, y: Tensor) -> Tensor:
        """What follows the recurrence, each position by itself."""
        p = self.config.dropout if self.training else 0.0
        if self.mlp is None or self.mlp_norm is None:
            return add_residual(self.out, y, x, p)
        y = self.out(y)
        return add_mlp(self.mlp, self.mlp_norm, y, x, p)
