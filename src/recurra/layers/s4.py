"""S4: a state space of its own for each channel, with the matrix of HiPPO-LegS in its normal form."""

import torch
from torch import Tensor, nn

from recurra.layers.hippo import legs
from recurra.layers.s4d import check_width, steps
from recurra.ops.dplr import Continuous, discretise, dplr, layer_step, system_planes
from recurra.ops.linear import start, state_dtype
from recurra.parts.kept import Kept
from recurra.state import LinearState

__all__ = ["S4Layer"]


class S4Layer(nn.Module):
    """h' = A h + B x in continuous time, y = 2 Re(sum_n C_n h_n) + D x, A = diag(poles) - P P*.

    arXiv 2111.00396, section 3. x [B, T, D]; N = `states` complex states, one of each conjugate pair;
    poles = -exp(log_a_real) + i a_imag [D, N], rank_one (P), b and c [D, N, 2] begin as HiPPO-LegS of 2N
    states; bilinear rule with step exp(log_dt) in [dt_min, dt_max]. Departs from the authors' code in
    training C itself, not C (1 - A_bar^T), so that no length is built in. The state, [B, N, 2, D] real and
    imaginary parts, is kept in at least fp32. Raises ValueError that names the argument.
    """

    def __init__(self, width: int, states: int = 32, *, dt_min: float = 1e-3, dt_max: float = 0.1) -> None:
        super().__init__()
        self.width = width
        kind = torch.get_default_dtype().to_complex()
        poles, p, b = (x.to(kind).expand(width, -1) for x in legs(states))
        self.log_dt = nn.Parameter(steps(width, dt_min, dt_max))
        self.log_a_real, self.a_imag = nn.Parameter((-poles.real).log()), nn.Parameter(poles.imag.clone())
        self.rank_one = nn.Parameter(torch.view_as_real(p).clone())
        self.b = nn.Parameter(torch.view_as_real(b).clone())
        # Of variance one in all, as the paper's complex normal.
        self.c = nn.Parameter(torch.randn(width, states, 2) * 0.5**0.5)
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
        return dplr(x, self.system(), self._skip(), state, reset, lengths)

    def step(self, x_t: Tensor, state: LinearState | None = None) -> tuple[Tensor, LinearState]:
        """One step: y_t [B, D] and the state, from x_t [B, D]."""
        check_width("x_t", x_t, ("batch",), self.skip)
        parameters, skip = self._kept(self._constants, *self.parameters())
        like = x_t[:, None, None, None].expand(-1, -1, len(parameters), 2, -1)
        return layer_step(x_t, LinearState(start(state, like)), parameters, skip)

    def system(self) -> Continuous:
        """The continuous system, in at least fp32."""
        dtype = state_dtype(self.c.dtype)
        log_dt, real, imag = (p.to(dtype) for p in (self.log_dt, self.log_a_real, self.a_imag))
        p, b, c = (torch.view_as_complex(x.to(dtype)) for x in (self.rank_one, self.b, self.c))
        return Continuous(log_dt.exp(), torch.complex(-real.exp(), imag), p, b, c)

    def _skip(self) -> Tensor:
        return self.skip.to(state_dtype(self.skip.dtype))

    def _constants(self) -> tuple[Tensor, Tensor]:
        return system_planes(discretise(self.system())), self._skip()

    def extra_repr(self) -> str:
        return f"{self.width}, {self.c.shape[1]}"
