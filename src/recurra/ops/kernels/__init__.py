"""The Triton kernels, for tensors on a GPU: which inputs they take.

They have the names and the signatures of those in `ops.native`; Triton itself is imported when one is first
asked for.
"""

from functools import cache
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor

DTYPES = (torch.float32, torch.bfloat16, torch.float16)


@cache
def _installed() -> bool:
    return find_spec("triton") is not None


@torch.compiler.assume_constant_result  # type: ignore[untyped-decorator]
def available() -> bool:
    """True where Triton is installed."""
    return _installed()


def takes(*tensors: Tensor) -> bool:
    """True if the kernels can take these tensors: on a GPU, of one known dtype."""
    dtype = tensors[0].dtype
    for x in tensors:
        if not x.is_cuda or x.dtype != dtype:
            return False
    return dtype in DTYPES and available()


def takes_cell(cell: str, gates: Tensor, weight: Tensor, backward: bool) -> bool:
    """True if the kernels can take these gates, and a head of W_hh [..., rows, channels] fits a processor;
    backward: whether a gradient may be asked for."""
    if not takes(gates) or weight.shape[-1] > 64:
        return False
    # Over this one pass the compiler of Triton 3.8 aborts the process, for Blackwell and what follows it.
    hard = backward and cell == "slstm" and gates.dtype == torch.float32
    return not hard or torch.cuda.get_device_properties(gates.device).major < 10


# The file of every kernel.
FILES = {
    "cell": "cells",
    "cell_backward": "cells",
    "conv": "convs",
    "conv_backward": "convs",
    "outer": "outers",
    "outer_backward": "outers",
    "scan": "linear",
    "scan_backward": "linear",
    "selective": "selectives",
    "selective_backward": "selectives",
    "softmax": "softmaxes",
    "softmax_backward": "softmaxes",
}


def __getattr__(name: str) -> Any:
    if name in FILES:
        return getattr(import_module(f"recurra.ops.kernels.{FILES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
