"""Finding the C++ library, choosing its instruction set, and whether it can serve.

The library has a plain C ABI and knows neither Python nor torch. Every call passes one record of
8-byte fields (csrc/abi.h names them in the same order) packed by `struct`: the cheapest call there is.
"""

import ctypes
import importlib.util
import os
import threading
import warnings
from functools import cache
from typing import Any

import torch
from torch import Tensor

from recurra.ops.quantized import Quantized

LEVELS = ("portable", "x86-64-v2", "x86-64-v3", "x86-64-v4")
DTYPES = {torch.float32: 0, torch.float64: 1, torch.bfloat16: 2, torch.complex64: 3, torch.complex128: 4}
# In which dtype the state of real inputs is kept.
STATES = {torch.float32: torch.float32, torch.float64: torch.float64, torch.bfloat16: torch.float32}
EXPORTS = (
    "scan_forward",
    "scan_backward",
    "conv_forward",
    "conv_backward",
    "cell_forward",
    "cell_backward",
    "cell_step",
    "conv_step",
    "norm_forward",
    "norm_backward",
    "activation_forward",
    "activation_backward",
    "copy",
    "replay",
    "softmax_forward",
    "softmax_backward",
    "softmax_step",
    "token_mix_forward",
    "token_mix_backward",
    "token_mix_step",
    "diagonal_forward",
    "diagonal_backward",
    "dplr_forward",
    "dplr_backward",
    "outer_forward",
    "outer_backward",
    "fours_forward",
    "fours_backward",
    "selective_forward",
    "selective_backward",
    "selective_step",
    "matvec",
    "layer_step",
    "product",
    "attention_step",
    "cross_attention",
)
# Below this many outputs a second thread costs more than it saves.
PARALLEL = 1 << 14

_forked = False


def _after_fork() -> None:
    # libgomp's threads do not survive a fork, and waiting for them would never end.
    global _forked
    _forked = True


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


@cache
def find() -> tuple[ctypes.CDLL | None, str]:
    """The library, and why it is missing where it is."""
    wanted = os.environ.get("RECURRA_ISA", "")
    if wanted == "none":
        return None, "switched off by RECURRA_ISA=none"
    if wanted and wanted not in LEVELS:
        raise ValueError(f"RECURRA_ISA must be none or one of {', '.join(LEVELS)}, got {wanted!r}")
    spec = importlib.util.find_spec("recurra._kernels")
    if spec is None or spec.origin is None:
        return None, "not built: no C++ compiler at install time"
    try:
        library = ctypes.CDLL(spec.origin)
    except OSError as e:
        return None, f"{spec.origin} does not load: {e}"
    for name in EXPORTS:
        call = getattr(library, f"recurra_{name}")
        call.argtypes, call.restype = [ctypes.c_char_p], None
    library.recurra_advise.argtypes, library.recurra_advise.restype = [ctypes.c_void_p, ctypes.c_int64], None
    library.recurra_select.argtypes, library.recurra_select.restype = [ctypes.c_int], ctypes.c_int
    library.recurra_select(LEVELS.index(wanted) if wanted else len(LEVELS) - 1)
    return library, ""


def select(level: str) -> str:
    """Use the kernels of this level, or of the best one below that this machine runs; returns which."""
    return LEVELS[require_library().recurra_select(LEVELS.index(level))]


def level() -> str:
    """The level in use, or why there is none."""
    library, why = find()
    return LEVELS[library.recurra_select(-1)] if library else f"none ({why})"


@torch.compiler.assume_constant_result  # type: ignore[untyped-decorator]
def available() -> bool:
    """True where the library is loaded; warns once where it is not."""
    return _loaded()


@cache
def _loaded() -> bool:
    library, why = find()
    if library is None:
        warnings.warn(f"recurra runs without its native kernels, in plain torch: {why}", stacklevel=2)
    return library is not None


def takes(*tensors: Tensor | Quantized) -> bool:
    """True if the kernels can take these tensors: on the CPU, of one known dtype."""
    dtype = tensors[0].dtype
    for x in tensors:
        if not x.is_cpu or x.dtype != dtype:
            return False
    return dtype in DTYPES and available()


def require_library() -> ctypes.CDLL:
    """The library. Raises RuntimeError where it is missing."""
    library, why = find()
    if library is None:
        raise RuntimeError(f"recurra has no native kernels: {why}")
    return library


def require(*tensors: Tensor) -> ctypes.CDLL:
    """The library, for tensors that it can take. Raises RuntimeError."""
    library = require_library()
    if not takes(*tensors):
        got = ", ".join(f"{x.dtype} on {x.device}" for x in tensors)
        raise RuntimeError(f"the native kernels take CPU tensors of one dtype of {list(DTYPES)}, got {got}")
    return library


class _Tapes(threading.local):
    """Of each thread: the `Tape` on which calls are being recorded, if they are."""

    tape: Any = None


tapes = _Tapes()


def call(name: str, record: bytes) -> None:
    """Call an exported function with its record."""
    getattr(require_library(), f"recurra_{name}")(record)
    if tapes.tape is not None:
        tapes.tape.add(name, record)


def address(name: str) -> int:
    """Where an exported function begins."""
    return ctypes.cast(getattr(require_library(), f"recurra_{name}"), ctypes.c_void_p).value or 0


def threads_for(outputs: int) -> int:
    """Threads that a kernel with so many outputs may use."""
    return 1 if outputs < PARALLEL or _forked else torch.get_num_threads()
