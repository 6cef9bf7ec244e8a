"""What lets a decoder look at what an encoder made of another sequence."""

from torch import Tensor, nn

from recurra.blocks.common import add_residual, check_width
from recurra.ops.cross_attention import cross_attention, cross_attention_step, cross_weights
from recurra.parts.heads import head_channels
from recurra.parts.linear import Linear
from recurra.parts.norm import NORMS

__all__ = ["CrossAttention"]


class CrossAttention(nn.Module):
    """x += W_o cross_attention(W_q norm(x), W_kv memory), x [B, T, width], memory [B, S, width]; no biases.

    arXiv 1706.03762, section 3.2.3; positions are left to what encoder and decoder know of them. Departs
    from the paper in the norm, which stands in front. Raises ValueError that names the argument.
    """

    def __init__(self, width: int, norm: str = "rms", dropout: float = 0.0) -> None:
        super().__init__()
        self.width, self.dropout = width, dropout
        self.channels = head_channels(width)
        self.norm = NORMS[norm](width)
        self.query, self.keys = Linear(width, width, bias=False), Linear(width, 2 * width, bias=False)
        self.out = Linear(width, width, bias=False)

    def remember(self, memory: Tensor) -> Tensor:
        """Keys and values of the memory, [B, 2, heads, S, channels], as a step reads them: made once."""
        check_width(memory, ("batch", "source"), self.width)
        kv: Tensor = self.keys(memory).unflatten(-1, (2, -1, self.channels))
        return kv.permute(0, 2, 3, 1, 4).contiguous()

    def forward(self, x: Tensor, remembered: Tensor, lengths: Tensor | None = None) -> Tensor:
        """y [B, T, width]; lengths [B] of the memory's rows."""
        check_width(x, ("batch", "time"), self.width)
        k, v = remembered.transpose(2, 3).unbind(1)
        y = cross_attention(self._queries(x), k, v, lengths).flatten(-2)
        return add_residual(self.out, y, x, self.dropout if self.training else 0.0)

    def step(self, x_t: Tensor, remembered: Tensor, lengths: Tensor) -> Tensor:
        """One step: y_t [B K, width] of x_t [B K, width]; lengths [B] of the memory's rows, at least 1.

        The K rows of a memory stand one behind the other. What is not to be read is to be finite.
        """
        check_width(x_t, ("batch",), self.width)
        q = self._queries(x_t.unflatten(0, (len(remembered), -1)))
        y = cross_attention_step(q, remembered, lengths).reshape(x_t.shape)
        return add_residual(self.out, y, x_t, self.dropout if self.training else 0.0)

    def weights(self, x: Tensor, remembered: Tensor, lengths: Tensor | None = None) -> Tensor:
        """Where each position of x [B, T, width] looks, [B, heads, T, S]."""
        return cross_weights(self._queries(x), remembered[:, 0].transpose(1, 2), lengths)

    def _queries(self, x: Tensor) -> Tensor:
        q: Tensor = self.query(self.norm(x)).unflatten(-1, (-1, self.channels))
        return q
