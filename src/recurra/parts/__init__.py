"""What blocks and models are made of besides recurrences: parameters, no sequence of their own."""

from recurra.parts.conv import CausalConv
from recurra.parts.embedding import Embedding, LinearEmbedding
from recurra.parts.linear import Linear
from recurra.parts.mlp import GEGLU, MLP, SwiGLU
from recurra.parts.norm import NORMS, HeadNorm, LayerNorm, RMSNorm

__all__ = [
    "GEGLU",
    "MLP",
    "NORMS",
    "CausalConv",
    "Embedding",
    "HeadNorm",
    "LayerNorm",
    "Linear",
    "LinearEmbedding",
    "RMSNorm",
    "SwiGLU",
]
