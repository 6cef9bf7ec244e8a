"""The minRNN block: short convolution, recurrent layer, MLP, each behind a residual."""

from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from recurra.blocks.common import add_mlp, add_residual, check_fields, check_width, end_rows, later
from recurra.layers.table import LAYERS
from recurra.ops.gated import CANDIDATES
from recurra.ops.linear import state_dtype
from recurra.parts.conv import CausalConv
from recurra.parts.linear import Linear
from recurra.parts.mlp import MLP
from recurra.parts.norm import NORMS, LayerNorm, RMSNorm
from recurra.state import ConvState, MinRNNState

__all__ = ["MinRNNBlock", "MinRNNConfig"]

_GATED = ("mingru", "minlstm")
_CARRIED = (*_GATED, "gru", "lstm")
# Which layers have a choice.
_CHOICES = {
    **dict.fromkeys(("candidate", "forget_bias", "learned_state"), _GATED),
    **dict.fromkeys(("normalized", "input_bias"), ("minlstm",)),
}


@dataclass(frozen=True)
class MinRNNConfig:
    """Sizes and choices of one block; conv, mlp 0: without. From candidate on: of minRNN layers alone."""

    width: int
    layer: str = "mingru"
    expansion: float = 1.0
    conv: int = 4
    mlp: float = 4.0
    norm: str = "rms"
    dropout: float = 0.0
    candidate: str = "positive"
    forget_bias: float = 0.0
    learned_state: bool = False
    normalized: bool = True
    input_bias: float = later(0.0)

    def __post_init__(self) -> None:
        self._check_names()
        if self.conv < 0 or not 0 <= self.mlp < float("inf"):
            raise ValueError(f"conv and mlp must not be negative, got {self.conv} and {self.mlp}")
        check_fields(self)
        if not self.expansion > 0 or self.hidden < 1:
            raise ValueError(f"expansion * width must be at least 1, got {self.expansion} * {self.width}")

    def _check_names(self) -> None:
        for field, known in (("layer", _CARRIED), ("candidate", CANDIDATES)):
            if getattr(self, field) not in known:
                raise ValueError(f"{field} must be one of {', '.join(known)}, got {getattr(self, field)!r}")
        for field, layers in _CHOICES.items():
            if self.layer not in layers and getattr(self, field) != getattr(MinRNNConfig, field):
                raise ValueError(f"{field} is not for layer {self.layer!r}, but for {' and '.join(layers)}")

    @property
    def hidden(self) -> int:
        """Width of the recurrent layer."""
        return round(self.expansion * self.width)


def _layer(config: MinRNNConfig) -> Any:
    make: Any = LAYERS[config.layer].layer
    chosen = {field: getattr(config, field) for field, layers in _CHOICES.items() if config.layer in layers}
    return make(config.width, config.hidden, **chosen)


def _history(x: Tensor, conv: ConvState | None) -> ConvState:
    """Without a conv the state holds no inputs."""
    if conv is not None:
        return conv
    return ConvState(x.new_zeros(x.shape[0], 0, x.shape[-1], dtype=state_dtype(x.dtype)))


class MinRNNBlock(nn.Module):
    """x += conv(x);  x += W_o layer(norm(x)) + b_o;  x += mlp(norm(x)), x [B, T, width].

    "Were RNNs All We Needed?" (arXiv 2410.01201, appendix C), in the order of the authors' code: no
    norm in front of the conv. layer: minGRU, minLSTM, or GRU, LSTM for comparison, `expansion` times
    as wide as x. Departs from the paper in RMSNorm (`norm="layer"` is the paper's) and in dropout on
    both residual branches, not in the MLP alone. Raises ValueError that names the argument.
    """

    # Optional submodules: torch's own types know of none.
    conv: CausalConv | None
    norm: RMSNorm | LayerNorm
    mlp_norm: RMSNorm | LayerNorm | None
    mlp: MLP | None

    def __init__(self, config: MinRNNConfig) -> None:
        super().__init__()
        self.config = config
        width, norm = config.width, NORMS[config.norm]
        self.conv = CausalConv(width, config.conv) if config.conv else None
        self.norm, self.layer, self.out = norm(width), _layer(config), Linear(config.hidden, width)
        self.mlp_norm = norm(width) if config.mlp else None
        self.mlp = MLP(width, max(1, round(config.mlp * width))) if config.mlp else None

    def forward(
        self,
        x: Tensor,
        state: MinRNNState | None = None,
        reset: Tensor | None = None,
        lengths: Tensor | None = None,
    ) -> tuple[Tensor, MinRNNState]:
        """y [B, T, width] and the last state, from x [B, T, width]; masks as in `ops.masks`."""
        check_width(x, ("batch", "time"), self.config.width)
        conv, layer = (None, None) if state is None else state
        filtered = None
        if self.conv is not None:
            filtered, conv = self.conv(x, conv, reset, lengths)
        x, normed = self.norm.after(x, filtered)
        y, layer = self.layer(normed, layer, reset, lengths)
        return end_rows(self._mix(x, y), lengths), MinRNNState(_history(x, conv), layer)

    def step(self, x_t: Tensor, state: MinRNNState | None = None) -> tuple[Tensor, MinRNNState]:
        """One step: y_t [B, width] and the state, from x_t [B, width]."""
        check_width(x_t, ("batch",), self.config.width)
        conv, layer = (None, None) if state is None else state
        filtered = None
        if self.conv is not None:
            filtered, conv = self.conv.step(x_t, conv)
        x_t, normed = self.norm.after(x_t, filtered)
        y, layer = self.layer.step(normed, layer)
        return self._mix(x_t, y), MinRNNState(_history(x_t, conv), layer)

    def _mix(self, x: Tensor, y: Tensor) -> Tensor:
        """What follows the recurrence, each position by itself; residual sums go with norms and products."""
        p = self.config.dropout if self.training else 0.0
        if self.mlp is None or self.mlp_norm is None:
            return add_residual(self.out, y, x, p)
        return add_mlp(self.mlp, self.mlp_norm, self.out(y), x, p)
