"""torch.nn's LSTM, with masks: one layer, and the stack."""

from typing import Any, ClassVar

from recurra.layers.cell import CellLayer, CellStack
from recurra.layers.recurrent import LikeLSTM
from recurra.state import LSTMState

__all__ = ["LSTM", "LSTMLayer"]


class LSTMLayer(CellLayer):
    """c_t = f c_{t-1} + i g, h_t = o tanh(c_t); i, f, o = sigmoid and g = tanh of their parts of
    W_ih x_t + b_ih + W_hh h_{t-1} + b_hh, in the order i, f, g, o.

    Gers et al., "Learning to Forget" (2000), without peepholes, as torch.nn. Parameters as in `CellLayer`.
    """

    CELL: ClassVar[str] = "lstm"
    PARTS: ClassVar[int] = 4
    State: ClassVar[Any] = LSTMState


class LSTM(CellStack, LikeLSTM):
    """`torch.nn.LSTM`, formulas and draws, with `lengths`, `reset` and `step`.

    As `GRU`, but takes and returns a pair (h, c); `from_torch` copies one. Departs from
    nn.LSTM in having no proj_size.
    Raises TypeError where hx is no pair: a tensor would be unpacked along its layers.
    """

    STATE: ClassVar[tuple[str, ...]] = ("h_0", "c_0")
    LAYER: ClassVar[type[CellLayer]] = LSTMLayer
