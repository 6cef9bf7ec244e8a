"""The S4 block: a state space for each channel, then a gated mix of the channels."""

from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from torch.nn.functional import dropout

from recurra.blocks.common import add_mlp, check_fields, check_width, end_rows
from recurra.layers.hippo import DIAGONALS
from recurra.layers.s4 import S4Layer
from recurra.layers.s4d import DISCRETISATIONS, S4DLayer
from recurra.ops.activation import activate
from recurra.parts.linear import Linear
from recurra.parts.mlp import MLP
from recurra.parts.norm import NORMS, LayerNorm, RMSNorm
from recurra.state import LinearState

__all__ = ["S4Block", "S4Config"]


@dataclass(frozen=True)
class S4Config:
    """Sizes and choices of one block; states: complex ones, one of each conjugate pair; mlp 0: without."""

    width: int
    layer: str = "s4d"
    states: int = 32
    init: str = "legs"
    discretisation: str = "zoh"
    dt_min: float = 1e-3
    dt_max: float = 0.1
    mlp: float = 4.0
    norm: str = "rms"
    dropout: float = 0.0

    def __post_init__(self) -> None:
        self._check_names()
        for field in ("width", "states"):
            if getattr(self, field) < 1:
                raise ValueError(f"{field} must be at least 1, got {getattr(self, field)}")
        if not 0 < self.dt_min <= self.dt_max:
            raise ValueError(f"dt_min must be positive and at most dt_max, got {self.dt_min}, {self.dt_max}")
        check_fields(self)

    def _check_names(self) -> None:
        names = {"layer": LAYERS, "init": DIAGONALS, "discretisation": DISCRETISATIONS}
        for field, known in names.items():
            if getattr(self, field) not in known:
                raise ValueError(f"{field} must be one of {', '.join(known)}, got {getattr(self, field)!r}")
        if self.layer == "s4" and (self.init, self.discretisation) != ("legs", "bilinear"):
            raise ValueError("init and discretisation of layer 's4' must be 'legs' and 'bilinear'")


def _s4d(config: S4Config) -> S4DLayer:
    return S4DLayer(
        config.width,
        config.states,
        init=config.init,
        discretisation=config.discretisation,
        dt_min=config.dt_min,
        dt_max=config.dt_max,
    )


def _s4(config: S4Config) -> S4Layer:
    return S4Layer(config.width, config.states, dt_min=config.dt_min, dt_max=config.dt_max)


LAYERS: dict[str, Any] = {"s4d": _s4d, "s4": _s4}


class S4Block(nn.Module):
    """x += glu(W_o gelu(layer(norm(x))) + b_o);  x += mlp(norm(x)), x [B, T, width].

    arXiv 2111.00396, section 3.4 and, with the MLP, its language model (appendix D.3.2); layer: S4, or
    S4D (arXiv 2206.11893). Departs from the papers in RMSNorm in front (`norm="layer"` is theirs).
    Raises ValueError that names the argument.
    """

    # Optional submodules: torch's own types know of none.
    mlp_norm: RMSNorm | LayerNorm | None
    mlp: MLP | None

    def __init__(self, config: S4Config) -> None:
        super().__init__()
        self.config = config
        width, norm = config.width, NORMS[config.norm]
        self.norm, self.layer, self.out = norm(width), LAYERS[config.layer](config), Linear(width, 2 * width)
        self.mlp_norm = norm(width) if config.mlp else None
        self.mlp = MLP(width, max(1, round(config.mlp * width))) if config.mlp else None

    def forward(
        self,
        x: Tensor,
        state: LinearState | None = None,
        reset: Tensor | None = None,
        lengths: Tensor | None = None,
    ) -> tuple[Tensor, LinearState]:
        """y [B, T, width] and the last state, from x [B, T, width]; masks as in `ops.masks`."""
        check_width(x, ("batch", "time"), self.config.width)
        y, state = self.layer(self.norm(x), state, reset, lengths)
        return end_rows(self._mix(x, y), lengths), state

    def step(self, x_t: Tensor, state: LinearState | None = None) -> tuple[Tensor, LinearState]:
        """One step: y_t [B, width] and the state, from x_t [B, width]."""
        check_width(x_t, ("batch",), self.config.width)
        y, state = self.layer.step(self.norm(x_t), state)
        return self._mix(x_t, y), state

    def _mix(self, x: Tensor, y: Tensor) -> Tensor:
        """What follows the state space, each position by itself."""
        p = self.config.dropout if self.training else 0.0
        value, gate = self.out(activate("gelu", y)).chunk(2, -1)
        if self.mlp is not None and self.mlp_norm is not None:
            return add_mlp(self.mlp, self.mlp_norm, activate("sigmoid", gate, value), x, p)
        if p:
            return x + dropout(activate("sigmoid", gate, value), p)
        return activate("sigmoid", gate, value, x)
