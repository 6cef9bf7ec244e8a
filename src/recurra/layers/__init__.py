"""Recurrent layers, input -> hidden, one file a paper; `recurrent` stacks them under torch.nn's contract."""

from recurra.layers.mingru import MinGRULayer
from recurra.layers.minlstm import MinLSTMLayer
from recurra.layers.recurrent import MinGRU, MinLSTM
from recurra.layers.table import LAYERS

__all__ = ["LAYERS", "MinGRU", "MinGRULayer", "MinLSTM", "MinLSTMLayer"]
