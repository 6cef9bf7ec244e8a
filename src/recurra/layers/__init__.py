"""Recurrent layers, input -> hidden, one file a paper; `recurrent` stacks them under torch.nn's contract."""

from recurra.layers.aaren import AarenLayer
from recurra.layers.gru import GRU, GRULayer
from recurra.layers.lstm import LSTM, LSTMLayer
from recurra.layers.mingru import MinGRULayer
from recurra.layers.minlstm import MinLSTMLayer
from recurra.layers.recurrent import MinGRU, MinLSTM
from recurra.layers.s4 import S4Layer
from recurra.layers.s4d import S4DLayer
from recurra.layers.slstm import SLSTMLayer
from recurra.layers.table import LAYERS

__all__ = [
    "GRU",
    "LAYERS",
    "LSTM",
    "AarenLayer",
    "GRULayer",
    "LSTMLayer",
    "MinGRU",
    "MinGRULayer",
    "MinLSTM",
    "MinLSTMLayer",
    "S4DLayer",
    "S4Layer",
    "SLSTMLayer",
]
