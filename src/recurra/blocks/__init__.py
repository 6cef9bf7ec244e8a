"""What papers stack into models, width -> width with norm and residual inside: one file a paper."""

from recurra.blocks.minrnn import MinRNNBlock, MinRNNConfig
from recurra.blocks.table import BLOCKS

__all__ = ["BLOCKS", "MinRNNBlock", "MinRNNConfig"]
