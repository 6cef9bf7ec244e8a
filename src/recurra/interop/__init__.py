"""Trained weights of others: read into our models, and ours written for others."""

from recurra.interop.load import from_rwkv, from_transformers
from recurra.interop.save import to_transformers

__all__ = ["from_rwkv", "from_transformers", "to_transformers"]
