"""The C++ kernels: one file for the calls of each header in csrc/."""

from recurra.ops.native.activations import activation, activation_backward
from recurra.ops.native.attentions import attention_step, cross_attention
from recurra.ops.native.cells import cell, cell_backward, cell_step
from recurra.ops.native.convs import MAX_TAPS, conv, conv_backward, conv_step
from recurra.ops.native.diagonals import diagonal, diagonal_backward
from recurra.ops.native.layout import as_rows, empty_as, empty_rows, lay_out, time_major
from recurra.ops.native.library import LEVELS, PARALLEL, STATES, available, level, select, takes, threads_for
from recurra.ops.native.norms import norm, norm_backward
from recurra.ops.native.outers import SEGMENT, outer, outer_backward
from recurra.ops.native.products import (
    block_product,
    fours,
    fours_backward,
    matvec,
    prefers_product,
    product,
)
from recurra.ops.native.scans import GATES, layer_step, scan, scan_backward
from recurra.ops.native.selectives import CHUNK, selective, selective_backward, selective_step
from recurra.ops.native.softmaxes import softmax, softmax_backward, softmax_step
from recurra.ops.native.tape import NotRecordableError, Tape, constant, marks, recording, replaced, unrecorded
from recurra.ops.native.token_mixes import MAX_MIXES, token_mix, token_mix_backward, token_mix_step

__all__ = [
    "CHUNK",
    "GATES",
    "LEVELS",
    "MAX_MIXES",
    "MAX_TAPS",
    "PARALLEL",
    "SEGMENT",
    "STATES",
    "NotRecordableError",
    "Tape",
    "activation",
    "activation_backward",
    "as_rows",
    "attention_step",
    "available",
    "block_product",
    "cell",
    "cell_backward",
    "cell_step",
    "constant",
    "conv",
    "conv_backward",
    "conv_step",
    "cross_attention",
    "diagonal",
    "diagonal_backward",
    "empty_as",
    "empty_rows",
    "fours",
    "fours_backward",
    "lay_out",
    "layer_step",
    "level",
    "marks",
    "matvec",
    "norm",
    "norm_backward",
    "outer",
    "outer_backward",
    "prefers_product",
    "product",
    "recording",
    "replaced",
    "scan",
    "scan_backward",
    "select",
    "selective",
    "selective_backward",
    "selective_step",
    "softmax",
    "softmax_backward",
    "softmax_step",
    "takes",
    "threads_for",
    "time_major",
    "token_mix",
    "token_mix_backward",
    "token_mix_step",
    "unrecorded",
]
