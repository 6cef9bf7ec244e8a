"""torch.nn's GRU, with masks: one layer, and the stack."""

from typing import Any, ClassVar

from recurra.layers.cell import CellLayer, CellStack
from recurra.layers.recurrent import LikeGRU
from recurra.state import GRUState

__all__ = ["GRU", "GRULayer"]


class GRULayer(CellLayer):
    """h_t = (1 - z) n + z h_{t-1}; r, z = sigmoid(W_ih x_t + b_ih + W_hh h_{t-1} + b_hh), n = tanh(W_in
    x_t + b_in + r (W_hn h_{t-1} + b_hn)), the parts of every parameter in the order r, z, n.

    arXiv 1406.1078, equations 5 to 8. Departs from the paper where torch.nn does: r acts after the
    product. Parameters as in `CellLayer`.
    """

    CELL: ClassVar[str] = "gru"
    PARTS: ClassVar[int] = 3
    State: ClassVar[Any] = GRUState


class GRU(CellStack, LikeGRU):
    """`torch.nn.GRU`, formulas and draws, with `lengths`, `reset` and `step`; `from_torch` copies one.

    input [T, B, I], [B, T, I] with batch_first, [T, I] or a PackedSequence; hx, h_n [layers *
    directions, B, H], h_n in at least fp32; lengths [B]: each row ends there, its output beyond is
    zero; reset, bool in the layout of input: True forgets all before that step. dropout acts between
    layers. Raises ValueError that names the argument.
    """

    LAYER: ClassVar[type[CellLayer]] = GRULayer
