"""minLSTM: one layer, one direction."""

from typing import ClassVar

import torch
from torch import Tensor

from recurra.layers.linear_layer import LinearLayer
from recurra.ops.gated import minlstm, minlstm_fusion
from recurra.state import LinearState

__all__ = ["MinLSTMLayer"]


class MinLSTMLayer(LinearLayer):
    """h_t = f'_t h_{t-1} + i'_t g(k_t), f_t = sigmoid(W_f x_t + b_f), i_t = sigmoid(W_i x_t + b_i).

    "Were RNNs All We Needed?" (arXiv 2410.01201, section 3.2; g: appendix B). normalized:
    f' = f/(f+i), i' = i/(f+i), so that h stays within its candidates; else f' = f, i' = i, and it can
    grow. weight_ih [3H, I] = [W_k | W_f | W_i]; forget_bias is added to b_f, input_bias to b_i: normalised
    gates remember for long only where i begins near 0 too. The rest as `MinGRULayer`.
    """

    PARTS: ClassVar[int] = 3
    FORGET_SIGN: ClassVar[int] = 1

    def __init__(  # noqa: PLR0913 - the signature of torch.nn, and what the paper adds
        self,
        input_size: int,
        hidden_size: int,
        *,
        bias: bool = True,
        candidate: str = "positive",
        normalized: bool = True,
        forget_bias: float = 0.0,
        input_bias: float = 0.0,
        learned_state: bool = False,
        reverse: bool = False,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        if input_bias and not bias:
            raise ValueError(f"input_bias is added to the bias: {input_bias} needs bias=True")
        self.input_bias = input_bias
        super().__init__(
            input_size,
            hidden_size,
            bias=bias,
            candidate=candidate,
            forget_bias=forget_bias,
            learned_state=learned_state,
            reverse=reverse,
            device=device,
            dtype=dtype,
        )
        self.normalized = normalized

    def reset_parameters(self) -> None:
        """Draw the parameters anew."""
        super().reset_parameters()
        if self.bias_ih is not None:
            with torch.no_grad():
                self.bias_ih[2 * self.hidden_size :].add_(self.input_bias)

    @property
    def fusion(self) -> str:
        return minlstm_fusion(self.candidate, self.normalized)

    def recurrence(
        self, fused: Tensor, state: LinearState | None, reset: Tensor | None, lengths: Tensor | None
    ) -> tuple[Tensor, LinearState]:
        return minlstm(
            fused,
            state,
            reset,
            lengths,
            candidate=self.candidate,
            normalized=self.normalized,
            reverse=self.reverse,
        )

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, normalized={self.normalized}, input_bias={self.input_bias}"
