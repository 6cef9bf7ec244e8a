"""Recurrences by their equation, the few other ops with time in them, and what stands between them.

No parameters here. y, state = op(inputs..., state=None, reset=None, lengths=None), inputs [B, T, ...].
"""

from recurra.ops.activation import activate, soft_cap
from recurra.ops.attention import attention, attention_step
from recurra.ops.block_product import block_product
from recurra.ops.causal_conv import causal_conv
from recurra.ops.cell import gru, lstm, slstm
from recurra.ops.diagonal import diagonal
from recurra.ops.gated import mingru, minlstm
from recurra.ops.linear import linear
from recurra.ops.norm import add_layer_norm, add_rms_norm, rms_norm
from recurra.ops.outer import outer
from recurra.ops.project import project
from recurra.ops.quantized import Quantized
from recurra.ops.selective import selective
from recurra.ops.softmax import softmax
from recurra.ops.token_mix import token_mix
from recurra.ops.token_shift import token_shift

__all__ = [
    "Quantized",
    "activate",
    "add_layer_norm",
    "add_rms_norm",
    "attention",
    "attention_step",
    "block_product",
    "causal_conv",
    "diagonal",
    "gru",
    "linear",
    "lstm",
    "mingru",
    "minlstm",
    "outer",
    "project",
    "rms_norm",
    "selective",
    "slstm",
    "soft_cap",
    "softmax",
    "token_mix",
    "token_shift",
]
