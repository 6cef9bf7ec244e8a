"""Every layer of the library: tests, benchmarks, command line and docs read this table."""

from typing import NamedTuple

from torch import nn

from recurra.layers.aaren import AarenLayer
from recurra.layers.gru import GRU, GRULayer
from recurra.layers.lstm import LSTM, LSTMLayer
from recurra.layers.mingru import MinGRULayer
from recurra.layers.minlstm import MinLSTMLayer
from recurra.layers.recurrent import MinGRU, MinLSTM, Recurrent
from recurra.layers.slstm import SLSTMLayer

__all__ = ["LAYERS", "Row"]


class Row(NamedTuple):
    """One layer, its stack under torch.nn's contract, its products an input, and where it comes from.

    module None: the state is not of the tensors that torch.nn's contract knows.
    """

    layer: type[nn.Module]
    module: type[Recurrent] | None
    parts: int
    paper: str


LAYERS: dict[str, Row] = {
    "mingru": Row(MinGRULayer, MinGRU, 2, "arXiv 2410.01201, section 3.1"),
    "minlstm": Row(MinLSTMLayer, MinLSTM, 3, "arXiv 2410.01201, section 3.2"),
    "gru": Row(GRULayer, GRU, 3, "arXiv 1406.1078, equations 5 to 8"),
    "lstm": Row(LSTMLayer, LSTM, 4, "Gers et al., 2000 (doi 10.1162/089976600300015015)"),
    "slstm": Row(SLSTMLayer, None, 4, "arXiv 2405.04517, section 2.2"),
    "aaren": Row(AarenLayer, None, 3, "arXiv 2405.13956, section 3"),
}
