"""What minGRU and minLSTM share: gates linear in x_t alone, then the linear recurrence."""

import math
from abc import ABC, abstractmethod
from typing import ClassVar

import torch
from torch import Tensor, nn

from recurra.ops.gated import CANDIDATES, FUSIONS, layer_step
from recurra.ops.linear import linear, start, state_dtype
from recurra.ops.masks import check, cuts, widen
from recurra.ops.native import time_major
from recurra.ops.project import project
from recurra.ops.quantized import Quantized
from recurra.state import LinearState


def check_input(name: str, x: Tensor, axes: tuple[str, ...], weight: Tensor | Quantized) -> None:
    """Raise ValueError where x is not [*axes, I] like the weight [O, I]."""
    if x.ndim != len(axes) + 1 or x.shape[-1] != weight.shape[1]:
        raise ValueError(f"{name} must be [{', '.join(axes)}, {weight.shape[1]}], got {list(x.shape)}")
    if x.device != weight.device:
        raise ValueError(f"{name} is on {x.device}, the weights on {weight.device}")
    if x.dtype != weight.dtype and not torch.is_autocast_enabled(x.device.type):
        raise ValueError(f"{name} is {x.dtype}, the weights are {weight.dtype}: convert one to the other")


def project_steps(x: Tensor, weight: Tensor | Quantized, bias: Tensor | None) -> Tensor:
    """The gates of x [B, T, I], in its memory order: a time-major x is not copied."""
    if time_major(x):
        return project(x.transpose(0, 1), weight, bias).transpose(0, 1)
    return project(x, weight, bias)


class LinearLayer(nn.Module, ABC):
    """One direction of h_t = a(x_t) h_{t-1} + b(x_t), with a and b from one fused product.

    weight_ih [parts * H, I] and bias_ih are drawn as nn.Linear draws them; initial_state [H] is
    standard normal. A subclass says what its gates are.
    """

    PARTS: ClassVar[int]
    State: ClassVar[type[LinearState]] = LinearState
    # The gate that forgets stands second; its bias moves by forget_bias with this sign.
    FORGET_SIGN: ClassVar[int]

    bias_ih: Tensor | None
    initial_state: Tensor | None

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        *,
        bias: bool = True,
        candidate: str = "positive",
        forget_bias: float = 0.0,
        learned_state: bool = False,
        reverse: bool = False,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        if candidate not in CANDIDATES:
            raise ValueError(f"candidate must be one of {', '.join(CANDIDATES)}, got {candidate!r}")
        if forget_bias and not bias:
            raise ValueError(f"forget_bias is added to the bias: {forget_bias} needs bias=True")
        self.input_size, self.hidden_size = input_size, hidden_size
        self.candidate, self.forget_bias, self.reverse = candidate, forget_bias, reverse
        rows = self.PARTS * hidden_size
        self.weight_ih = nn.Parameter(torch.empty(rows, input_size, device=device, dtype=dtype))
        bias_ih = nn.Parameter(torch.empty(rows, device=device, dtype=dtype)) if bias else None
        p = nn.Parameter(torch.empty(hidden_size, device=device, dtype=dtype)) if learned_state else None
        self.register_parameter("bias_ih", bias_ih)
        self.register_parameter("initial_state", p)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw the parameters anew."""
        bound = 1 / math.sqrt(self.input_size)
        nn.init.uniform_(self.weight_ih, -bound, bound)
        if self.bias_ih is not None:
            nn.init.uniform_(self.bias_ih, -bound, bound)
            with torch.no_grad():
                forget = self.bias_ih[self.hidden_size : 2 * self.hidden_size]
                forget.add_(self.FORGET_SIGN * self.forget_bias)
        if self.initial_state is not None:
            nn.init.normal_(self.initial_state)

    @property
    @abstractmethod
    def fusion(self) -> str:
        """Its row of `ops.gated.FUSIONS`."""

    @abstractmethod
    def recurrence(
        self, fused: Tensor, state: LinearState | None, reset: Tensor | None, lengths: Tensor | None
    ) -> tuple[Tensor, LinearState]:
        """The fused op."""

    def learned_start(self) -> Tensor | None:
        """The learned start [H], positive where the candidate is; None: it starts from zero."""
        p = self.initial_state
        if p is None:
            return None
        p = p.to(state_dtype(p.dtype))
        return CANDIDATES["positive"](p) if self.candidate == "positive" else p

    def _begin(self, state: LinearState | None, batch: int) -> LinearState | None:
        h = self.learned_start() if state is None else None
        return state if h is None else LinearState(h.expand(batch, -1))

    def forward(
        self,
        x: Tensor,
        state: LinearState | None = None,
        reset: Tensor | None = None,
        lengths: Tensor | None = None,
    ) -> tuple[Tensor, LinearState]:
        """h [B, T, H] and the last state, from x [B, T, I]; masks as in `ops.masks`."""
        check_input("x", x, ("batch", "time"), self.weight_ih)
        fused, state = project_steps(x, self.weight_ih, self.bias_ih), self._begin(state, x.shape[0])
        p = None if reset is None else self.learned_start()
        if reset is None or p is None:
            return self.recurrence(fused, state, reset, lengths)
        return self._restart(fused, p, state, reset, lengths)

    def _restart(
        self, fused: Tensor, p: Tensor, state: LinearState | None, reset: Tensor, lengths: Tensor | None
    ) -> tuple[Tensor, LinearState]:
        """The open form: the fused loop forgets to zero, so the learned start comes in through b."""
        known, lengths = check(fused.shape[0], fused.shape[1], fused.device, reset, lengths)
        a, b = FUSIONS[self.fusion].gates(fused)
        cut = cuts(known, lengths, self.reverse)
        b = b if cut is None else b + torch.where(widen(cut, b), a * p, 0)
        y, state = linear(a, b, state, reset, lengths, reverse=self.reverse)
        return y.to(fused.dtype), state

    def step(self, x_t: Tensor, state: LinearState | None = None) -> tuple[Tensor, LinearState]:
        """One step: h_t [B, H] and the state, from x_t [B, I]. Raises ValueError where it runs backwards."""
        if self.reverse:
            raise ValueError("a layer with reverse=True reads the last input first: it has no step")
        weight = self.weight_ih
        check_input("x_t", x_t, ("batch",), weight)
        shape = (x_t.shape[0], self.hidden_size)
        if state is None or state[0].shape != shape or state[0].device != x_t.device:
            like = x_t[:, None, :1].expand(-1, -1, self.hidden_size)
            state = LinearState(start(self._begin(state, shape[0]), like))
        return layer_step(x_t, weight, self.bias_ih, state, self.fusion)

    def extra_repr(self) -> str:
        return (
            f"{self.input_size}, {self.hidden_size}, bias={self.bias_ih is not None}, "
            f"candidate={self.candidate!r}, forget_bias={self.forget_bias}, "
            f"learned_state={self.initial_state is not None}, reverse={self.reverse}"
        )
