"""Calls of the token mixes (csrc/token_mix.h)."""

import struct

import torch
from torch import Tensor

from recurra.ops.native.library import DTYPES, call

MAX_MIXES = 4
_STEP = struct.Struct("12q")


def token_mix_step(x: Tensor, mixes: tuple[Tensor, ...], before: Tensor) -> tuple[tuple[Tensor, ...], Tensor]:
    """(m x + (1 - m) before for each of at most four mixes [D], x in the dtype of before).

    x, before [B, D]; everything contiguous, x and mixes of one dtype (unchecked).
    """
    y, after = x.new_empty(len(mixes), *x.shape), torch.empty_like(before)
    fields = (DTYPES[x.dtype], *x.shape, len(mixes), x.data_ptr(), before.data_ptr(), after.data_ptr())
    pointers = [m.data_ptr() for m in mixes] + [0] * (MAX_MIXES - len(mixes))
    call("token_mix_step", _STEP.pack(*fields, *pointers, y.data_ptr()))
    return y.unbind(0), after
