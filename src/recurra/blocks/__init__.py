"""What papers stack into models, width -> width with norm and residual inside: one file a paper."""

from recurra.blocks.aaren import AarenBlock, AarenConfig
from recurra.blocks.mamba import MambaBlock, MambaConfig
from recurra.blocks.minrnn import MinRNNBlock, MinRNNConfig
from recurra.blocks.mlstm import MLSTMBlock, MLSTMConfig
from recurra.blocks.rwkv4 import RWKV4Block, RWKV4Config
from recurra.blocks.rwkv5 import RWKV5Block, RWKV5Config
from recurra.blocks.s4 import S4Block, S4Config
from recurra.blocks.slstm import SLSTMBlock, SLSTMConfig
from recurra.blocks.table import BLOCKS
from recurra.blocks.transformer import TransformerBlock, TransformerConfig
from recurra.blocks.xlstm_large import XLSTMLargeBlock, XLSTMLargeConfig

__all__ = [
    "BLOCKS",
    "AarenBlock",
    "AarenConfig",
    "MLSTMBlock",
    "MLSTMConfig",
    "MambaBlock",
    "MambaConfig",
    "MinRNNBlock",
    "MinRNNConfig",
    "RWKV4Block",
    "RWKV4Config",
    "RWKV5Block",
    "RWKV5Config",
    "S4Block",
    "S4Config",
    "SLSTMBlock",
    "SLSTMConfig",
    "TransformerBlock",
    "TransformerConfig",
    "XLSTMLargeBlock",
    "XLSTMLargeConfig",
]
