"""The Mamba block: a selective state space between two projections, one residual around all of it."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from recurra.blocks.common import add_residual, check_fields, check_width, end_rows, later
from recurra.ops.activation import activate
from recurra.ops.linear import state_dtype
from recurra.ops.project import project
from recurra.ops.selective import StepParameters, layer_step, selective
from recurra.parts.conv import CausalConv
from recurra.parts.kept import Kept
from recurra.parts.linear import Linear
from recurra.parts.norm import NORMS, LayerNorm, RMSNorm
from recurra.state import MambaState

__all__ = ["MambaBlock", "MambaConfig"]

# x, delta, A, B, C, D, bias, z.
Arguments = tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]


@dataclass(frozen=True)
class MambaConfig:
    """Sizes of one block; rank 0: a sixteenth of the width. dt_min, dt_max: range of the first time steps.

    bias: of W_in and W_out; eps: of the norm, 0: its own.
    """

    width: int
    state: int = 16
    expansion: float = 2.0
    conv: int = 4
    rank: int = 0
    dt_min: float = 0.001
    dt_max: float = 0.1
    norm: str = "rms"
    dropout: float = 0.0
    bias: bool = later(False)
    eps: float = later(0.0)

    def __post_init__(self) -> None:
        for field in ("width", "state", "conv"):
            if getattr(self, field) < 1:
                raise ValueError(f"{field} must be at least 1, got {getattr(self, field)}")
        if not self.expansion > 0 or self.hidden < 1:
            raise ValueError(f"expansion * width must be at least 1, got {self.expansion} * {self.width}")
        if self.rank < 0:
            raise ValueError(f"rank must not be negative, got {self.rank}")
        if not 0 < self.dt_min <= self.dt_max < float("inf"):
            raise ValueError(
                f"dt_min and dt_max must be a range above 0, got {self.dt_min} and {self.dt_max}"
            )
        check_fields(self)

    @property
    def hidden(self) -> int:
        """Width of the recurrence."""
        return round(self.expansion * self.width)

    @property
    def dt_rank(self) -> int:
        """Width through which the time steps go."""
        return self.rank or -(-self.width // 16)


def _time_steps(config: MambaConfig) -> Linear:
    """W_dt and its bias, of which alone the first time steps are log-uniform in [dt_min, dt_max]."""
    linear, bound = Linear(config.dt_rank, config.hidden), config.dt_rank**-0.5
    with torch.no_grad():
        linear.weight.uniform_(-bound, bound)
        dt = linear.bias.uniform_(math.log(config.dt_min), math.log(config.dt_max)).exp()
        linear.bias.copy_(dt + (-torch.expm1(-dt)).log())  # softplus, solved for what goes in
    return linear


class MambaBlock(nn.Module):
    """x += W_out selective(u, W_dt r, B, C, gate z), u = silu(conv(v)), [v | z] = W_in norm(x).

    Mamba (arXiv 2312.00752, section 3.4, figure 3): [r | B | C] = W_x u; A = -exp(A_log), which begins as
    -(1..N) for every channel; time steps softplus(W_dt r + b) begin in [dt_min, dt_max]; x [B, T, width].
    Parameters have the names and shapes of the authors' code but for those of the conv. Departs from it
    in W_out, which is not divided by the root of the depth: a block can't know it. Raises ValueError that
    names the argument.
    """

    norm: RMSNorm | LayerNorm

    def __init__(self, config: MambaConfig) -> None:
        super().__init__()
        self.config = config
        width, hidden, states, rank = config.width, config.hidden, config.state, config.dt_rank
        self.norm = NORMS[config.norm](width, config.eps)
        self.in_proj = Linear(width, 2 * hidden, bias=config.bias)
        self.conv = CausalConv(hidden, config.conv)
        self.x_proj = Linear(hidden, rank + 2 * states, bias=False)
        self.dt_proj = _time_steps(config)
        self.A_log = nn.Parameter(torch.arange(1.0, states + 1).log().repeat(hidden, 1))
        self.D = nn.Parameter(torch.ones(hidden))
        self._kept = Kept()
        self.out_proj = Linear(hidden, width, bias=config.bias)

    def forward(
        self,
        x: Tensor,
        state: MambaState | None = None,
        reset: Tensor | None = None,
        lengths: Tensor | None = None,
    ) -> tuple[Tensor, MambaState]:
        """y [B, T, width] and the last state, from x [B, T, width]; masks as in `ops.masks`."""
        check_width(x, ("batch", "time"), self.config.width)
        conv, ssm = (None, None) if state is None else state
        u, z = self.in_proj(self.norm(x)).chunk(2, -1)
        u, conv = self.conv(u, conv, reset, lengths)
        y, ssm = selective(*self._arguments(activate("silu", u), z), ssm, reset, lengths)
        return end_rows(self._residual(x, y), lengths), MambaState(conv, ssm)

    def step(self, x_t: Tensor, state: MambaState | None = None) -> tuple[Tensor, MambaState]:
        """One step: y_t [B, width] and the state, from x_t [B, width]."""
        check_width(x_t, ("batch",), self.config.width)
        if state is None:
            y, state = self(x_t[:, None])
            return y[:, 0], state
        u, z = self.in_proj(self.norm(x_t)).chunk(2, -1)
        u, conv = self.conv.step(u, state.conv)
        u, dt = activate("silu", u), self.dt_proj
        parameters = self._kept(self._constants, dt.weight, self.A_log, self.D, dt.bias)
        y, ssm = layer_step(u, self.x_proj(u), z, parameters, state.ssm)
        return self._residual(x_t, y), MambaState(conv, ssm)

    def _arguments(self, u: Tensor, z: Tensor) -> Arguments:
        """What the recurrence reads, and its parameters."""
        sizes = [self.config.dt_rank, self.config.state, self.config.state]
        r, B, C = self.x_proj(u).split(sizes, -1)
        return u, project(r, self.dt_proj.weight), self._rates(), B, C, self.D, self.dt_proj.bias, z

    def _rates(self) -> Tensor:
        """A, in at least fp32."""
        return -self.A_log.to(state_dtype(self.A_log.dtype)).exp()

    def _constants(self) -> StepParameters:
        A, dt = self._rates().t().contiguous(), self.dt_proj
        return StepParameters(dt.weight.t().contiguous(), A, self.D.to(A.dtype), dt.bias.to(A.dtype))

    def _residual(self, x: Tensor, y: Tensor) -> Tensor:
        return add_residual(self.out_proj, y, x, self.config.dropout if self.training else 0.0)
