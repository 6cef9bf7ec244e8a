"""minGRU: one layer, one direction."""

from typing import ClassVar

from torch import Tensor

from recurra.layers.linear_layer import LinearLayer
from recurra.ops.gated import mingru
from recurra.state import LinearState

__all__ = ["MinGRULayer"]


class MinGRULayer(LinearLayer):
    """h_t = (1 - z_t) h_{t-1} + z_t g(k_t), z_t = sigmoid(W_z x_t + b_z), k_t = W_k x_t + b_k.

    "Were RNNs All We Needed?" (arXiv 2410.01201, section 3.1; g: appendix B). weight_ih [2H, I] =
    [W_k | W_z]; candidate g: `positive` (the paper's), `linear` or `tanh`. forget_bias is taken from
    b_z, since 1 - z forgets. learned_state: starts from g(p), p [H] learned (p itself where g is not
    `positive`), else from zeros; reset returns there too. The state is kept in at least fp32.
    Departs from the paper in computing in linear space, and so takes a state of any sign.
    """

    PARTS: ClassVar[int] = 2
    FORGET_SIGN: ClassVar[int] = -1

    @property
    def fusion(self) -> str:
        return f"mingru_{self.candidate}"

    def recurrence(
        self, fused: Tensor, state: LinearState | None, reset: Tensor | None, lengths: Tensor | None
    ) -> tuple[Tensor, LinearState]:
        return mingru(fused, state, reset, lengths, candidate=self.candidate, reverse=self.reverse)
