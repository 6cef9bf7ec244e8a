"""Recurrent sequence models that train in parallel over time and run in constant memory."""

from recurra import models, ops, state
from recurra.blocks.stack import Stack
from recurra.config import show_config
from recurra.interop import accelerate, decelerate, from_rwkv, from_transformers, to_transformers
from recurra.layers.gru import GRU
from recurra.layers.lstm import LSTM
from recurra.layers.recurrent import MinGRU, MinLSTM
from recurra.models.quantize import quantize
from recurra.models.sequence import language_model
from recurra.version import __version__

__all__ = [
    "GRU",
    "LSTM",
    "MinGRU",
    "MinLSTM",
    "Stack",
    "__version__",
    "accelerate",
    "decelerate",
    "from_rwkv",
    "from_transformers",
    "language_model",
    "models",
    "ops",
    "quantize",
    "show_config",
    "state",
    "to_transformers",
]
