"""Trained weights of others: read into our models, and ours written for others; their models made fast."""

from recurra.interop.accelerate import accelerate, decelerate
from recurra.interop.load import from_rwkv, from_transformers
from recurra.interop.save import to_transformers

__all__ = ["accelerate", "decelerate", "from_rwkv", "from_transformers", "to_transformers"]
