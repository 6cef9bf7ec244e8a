"""Recurrences by their equation, and the few other ops with time in them. No parameters here.

y, state = op(inputs..., state=None, reset=None, lengths=None), inputs [B, T, ...].
"""

from recurra.ops.attention import attention, attention_step
from recurra.ops.causal_conv import causal_conv
from recurra.ops.cell import gru, lstm
from recurra.ops.gated import mingru, minlstm
from recurra.ops.linear import linear
from recurra.ops.project import project
from recurra.ops.token_shift import token_shift

__all__ = [
    "attention",
    "attention_step",
    "causal_conv",
    "gru",
    "linear",
    "lstm",
    "mingru",
    "minlstm",
    "project",
    "token_shift",
]
