"""S4D: a state space of its own for each channel, with a diagonal matrix."""

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from recurra.layers.hippo import DIAGONALS
from recurra.ops.diagonal import diagonal_by_planes, layer_step, planes
from recurra.ops.linear import start, state_dtype
from recurra.parts.kept import Kept
from recurra.state import LinearState

__all__ = ["DISCRETISATIONS", "S4DLayer"]

Pair = tuple[Tensor, Tensor]


def hold(dt: Tensor, a: Tensor) -> Pair:
    """Zero-order hold: exp(dt a) and (exp(dt a) - 1) / a, for an input that stays until the next one."""
    x, y = dt * a.real, dt * a.imag
    # exp(z) - 1 in real parts: the difference would lose a small dt.
    below = torch.complex(x.expm1() * y.cos() - 2 * (y / 2).sin().square(), x.exp() * y.sin())
    return torch.polar(x.exp(), y), below / a


def bilinear(dt: Tensor, a: Tensor) -> Pair:
    """The trapezoidal rule: (1 + dt a / 2) / (1 - dt a / 2) and dt / (1 - dt a / 2)."""
    below = 1 - dt * a / 2
    return (1 + dt * a / 2) / below, dt / below


# From h' = a h + u to h_t = a_bar h_{t-1} + b_bar u_t.
DISCRETISATIONS: dict[str, Callable[[Tensor, Tensor], Pair]] = {"zoh": hold, "bilinear": bilinear}


class S4DLayer(nn.Module):
    """h' = A h + x in continuous time, y = 2 Re(sum_n C_n h_n) + D x, in each channel; A diagonal.

    arXiv 2206.11893, equations 1 and 2 and section 4.  x [B, T, D]; N = `states` complex states, one of
    each conjugate pair (N = 64 in the paper: 32 here); A = -exp(log_a_real) + i a_imag [D, N], drawn as
    init says: `legs`, `inv`, `lin` or `real`; discretisation: `zoh` or `bilinear`, with step exp(log_dt)
    in [dt_min, dt_max]. B is 1, as its product with C [D, N, 2] alone matters. The state,
    [B, N, 2, D] real and imaginary parts, is kept in at least fp32. Raises ValueError.
    """

    def __init__(
        self,
        width: int,
        states: int = 32,
        *,
        init: str = "legs",
        discretisation: str = "zoh",
        dt_min: float = 1e-3,
        dt_max: float = 0.1,
    ) -> None:
        super().__init__()
        for name, given, known in (
            ("init", init, DIAGONALS),
            ("discretisation", discretisation, DISCRETISATIONS),
        ):
            if given not in known:
                raise ValueError(f"{name} must be one of {', '.join(known)}, got {given!r}")
        self.width, self.init, self.discretisation = width, init, discretisation
        a = DIAGONALS[init](states).to(torch.get_default_dtype().to_complex()).expand(width, -1)
        self.log_dt = nn.Parameter(steps(width, dt_min, dt_max))
        self.log_a_real, self.a_imag = nn.Parameter((-a.real).log()), nn.Parameter(a.imag.clone())
        # Of variance one in all, as the paper's complex normal.
        self.c = nn.Parameter(torch.randn(width, states, 2) / math.sqrt(2))
        self.skip = nn.Parameter(torch.randn(width))
        self._kept = Kept()

    def forward(
        self,
        x: Tensor,
        state: LinearState | None = None,
        reset: Tensor | None = None,
        lengths: Tensor | None = None,
    ) -> tuple[Tensor, LinearState]:
        """y [B, T, D] and the last state, from x [B, T, D]; masks as in `ops.masks`."""
        check_width("x", x, ("batch", "time"), self.skip)
        parameters, skip = self._kept(self._constants, *self.parameters())
        return diagonal_by_planes(x, parameters, skip, state, reset, lengths)

    def step(self, x_t: Tensor, state: LinearState | None = None) -> tuple[Tensor, LinearState]:
        """One step: y_t [B, D] and the state, from x_t [B, D]."""
        check_width("x_t", x_t, ("batch",), self.skip)
        parameters, skip = self._kept(self._constants, *self.parameters())
        like = x_t[:, None, None, None].expand(-1, -1, len(parameters), 2, -1)
        return layer_step(x_t, LinearState(start(state, like)), parameters, skip)

    def _constants(self) -> tuple[Tensor, Tensor]:
        """What the recurrence multiplies by, in at least fp32, and D."""
        dtype = state_dtype(self.c.dtype)
        log_dt, log_a_real, a_imag, c, skip = (
            p.to(dtype) for p in (self.log_dt, self.log_a_real, self.a_imag, self.c, self.skip)
        )
        a = torch.complex(-log_a_real.exp(), a_imag)
        a_bar, b_bar = DISCRETISATIONS[self.discretisation](log_dt.exp()[:, None], a)
        abc = torch.stack([a_bar, b_bar, 2 * torch.view_as_complex(c)])
        return planes(abc).movedim(1, 0).contiguous(), skip

    def extra_repr(self) -> str:
        return f"{self.width}, {self.c.shape[1]}, init={self.init!r}, discretisation={self.discretisation!r}"


def steps(width: int, dt_min: float, dt_max: float) -> Tensor:
    """log dt [D], dt log-uniform in [dt_min, dt_max]. Raises ValueError for an empty range."""
    if not 0 < dt_min <= dt_max:
        raise ValueError(f"dt_min must be positive and at most dt_max, got {dt_min} and {dt_max}")
    return torch.rand(width) * math.log(dt_max / dt_min) + math.log(dt_min)


def check_width(name: str, x: Tensor, axes: tuple[str, ...], like: Tensor) -> None:
    """Raise ValueError where x is not [*axes, D] for D parameters."""
    if x.ndim != len(axes) + 1 or x.shape[-1] != len(like):
        raise ValueError(f"{name} must be [{', '.join(axes)}, {len(like)}], got {list(x.shape)}")
