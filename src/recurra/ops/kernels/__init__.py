"""The Triton kernels, for tensors on a GPU: which inputs they take.

`scan` and `scan_backward` have the signatures of those in `ops.native`; Triton itself is imported when they
are first asked for.
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


def __getattr__(name: str) -> Any:
    if name in {"scan", "scan_backward"}:
        return getattr(import_module("recurra.ops.kernels.linear"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
