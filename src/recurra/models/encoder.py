"""An encoder: blocks that together see both sides of every position."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from recurra.blocks.stack import State
from recurra.parts.norm import NORMS

__all__ = ["Encoder", "turned"]


def turned(x: Tensor, lengths: Tensor) -> Tensor:
    """Rows of x [B, T, ...] read from their ends: lengths [B] steps of each are turned, the others stay."""
    steps = torch.arange(x.shape[1], device=x.device)
    back = lengths[:, None] - 1 - steps
    index = torch.where(back < 0, steps, back)
    return x.gather(1, index.view(*index.shape, *[1] * (x.ndim - 2)).expand_as(x))


class Encoder(nn.Module):
    """memory [B, S, width] = norm(block_n(... block_1(x))): every second block reads backward.

    Blocks that see both sides themselves (`bidirectional` in their config) are never turned. From two blocks
    on each position knows of all others. The cost is that of the blocks, and no parameter is doubled, as it
    would be with two directions at every layer.
    """

    # A ModuleList of blocks: torch's type forgets of what.
    blocks: Any

    def __init__(self, blocks: Sequence[nn.Module], width: int, norm: str = "rms") -> None:
        super().__init__()
        self.blocks, self.norm = nn.ModuleList(blocks), NORMS[norm](width)

    def forward(self, x: Tensor, lengths: Tensor) -> tuple[Tensor, State]:
        """memory from x [B, S, width], and the last state of each block: what reads backward ends at the
        first step."""
        ends = []
        for i, block in enumerate(self.blocks):
            backward = i % 2 == 1 and not getattr(block.config, "bidirectional", False)
            x, end = block(turned(x, lengths) if backward else x, lengths=lengths)
            x = turned(x, lengths) if backward else x
            ends.append(end)
        return self.norm(x), tuple(ends)
