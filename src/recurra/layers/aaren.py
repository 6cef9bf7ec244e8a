"""Aaren: attention whose query is learned, read as a recurrence; one layer, one direction."""

import math
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from recurra.layers.linear_layer import check_input, project_steps
from recurra.ops.project import project
from recurra.ops.quantized import Quantized, wide
from recurra.ops.softmax import softmax, take_step
from recurra.parts.heads import head_channels
from recurra.parts.kept import Kept
from recurra.state import SoftmaxState

__all__ = ["AarenLayer"]


class AarenLayer(nn.Module):
    """y_t = sum_{j<=t} softmax_j(q k_j / sqrt(C)) v_j for each head of C channels; q = W_q token + b_q.

    "Attention as an RNN" (arXiv 2405.13956, sections 3.2 and 3.3). k, v = W x + b; weight_ih [3H, I] =
    [W_q | W_k | W_v] and bias_ih as in torch.nn.MultiheadAttention, heads in order; token [I] is learned.
    heads 0: of about 64 channels, as `head_channels`. Weights are drawn as nn.Linear draws them, token is
    standard normal (the paper does not say). The output projection is the block's. State: `SoftmaxState`, in
    at least fp32.
    """

    State: ClassVar[Any] = SoftmaxState

    bias_ih: Tensor | None

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        *,
        heads: int = 0,
        bias: bool = True,
        reverse: bool = False,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.input_size, self.hidden_size, self.reverse = input_size, hidden_size, reverse
        self.heads = hidden_size // head_channels(hidden_size, heads)
        self.token = nn.Parameter(torch.empty(input_size, device=device, dtype=dtype))
        self.weight_ih = nn.Parameter(torch.empty(3 * hidden_size, input_size, device=device, dtype=dtype))
        bias_ih = nn.Parameter(torch.empty(3 * hidden_size, device=device, dtype=dtype)) if bias else None
        self.register_parameter("bias_ih", bias_ih)
        self._kept = Kept()
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw the parameters anew."""
        bound = 1 / math.sqrt(self.input_size)
        for p in (self.weight_ih, self.bias_ih):
            if p is not None:
                nn.init.uniform_(p, -bound, bound)
        nn.init.normal_(self.token)

    def _maps(self) -> tuple[tuple[Tensor, Tensor | None], tuple[Tensor | Quantized, Tensor | None]]:
        """Weight and bias of the scores and of the values.

        q W_k x is (q W_k) x: with q known beforehand, keys need not be computed, and that is half the work.
        """
        w_q, w_k, w_v = self.weight_ih.split(self.hidden_size)
        b_q, b_k, b_v = (None,) * 3 if self.bias_ih is None else self.bias_ih.chunk(3)
        q = project(self.token, w_q, b_q).unflatten(0, (self.heads, 1, -1))
        q = q / math.sqrt(q.shape[-1])
        weight = (q @ wide(w_k).unflatten(0, (self.heads, -1)))[:, 0]
        # Raises all scores of a head alike: seen in the state's max alone.
        bias = None if b_k is None else (q[:, 0] * b_k.unflatten(0, (self.heads, -1))).sum(-1)
        return (weight, bias), (w_v, b_v)

    def forward(
        self,
        x: Tensor,
        state: SoftmaxState | None = None,
        reset: Tensor | None = None,
        lengths: Tensor | None = None,
    ) -> tuple[Tensor, SoftmaxState]:
        """y [B, T, H] and the last state, from x [B, T, I]; masks as in `ops.masks`."""
        check_input("x", x, ("batch", "time"), self.weight_ih)
        maps = self._kept(self._maps, *self.parameters())
        scores, values = (project_steps(x, weight, bias) for weight, bias in maps)
        return softmax(scores, values, state, reset, lengths, reverse=self.reverse)

    def step(self, x_t: Tensor, state: SoftmaxState | None = None) -> tuple[Tensor, SoftmaxState]:
        """One step: y_t [B, H] and the state, from x_t [B, I]. Raises ValueError where it runs backwards."""
        if self.reverse:
            raise ValueError("a layer with reverse=True reads the last input first: it has no step")
        check_input("x_t", x_t, ("batch",), self.weight_ih)
        maps = self._kept(self._maps, *self.parameters())
        scores, values = (project(x_t, weight, bias) for weight, bias in maps)
        return take_step(scores, values, state)

    def extra_repr(self) -> str:
        return (
            f"{self.input_size}, {self.hidden_size}, heads={self.heads}, "
            f"bias={self.bias_ih is not None}, reverse={self.reverse}"
        )
