"""The Triton kernels, for tensors on a GPU: which inputs they take.

Triton itself is imported at the first call. `scan` and `scan_backward` have the signatures of those in
`ops.native`.
"""

from functools import cache
from importlib.util import find_spec

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


def scan(
    gate: str,
    inputs: tuple[Tensor, ...],
    h_0: Tensor,
    reset: Tensor | None,
    lengths: Tensor | None,
    reverse: bool,
) -> tuple[Tensor, Tensor]:
    """(y, h_n) of a gated linear recurrence. inputs: a and b, or one tensor of fused gates."""
    from recurra.ops.kernels import linear  # noqa: PLC0415

    return linear.scan(gate, inputs, h_0, reset, lengths, reverse)


def scan_backward(
    gate: str,
    dy: Tensor,
    dh_n: Tensor,
    inputs: tuple[Tensor, ...],
    h_0: Tensor,
    y: Tensor,
    reset: Tensor | None,
    lengths: Tensor | None,
    reverse: bool,
) -> tuple[tuple[Tensor, ...], Tensor]:
    """Gradients of every input and of h_0, from those of y and h_n."""
    from recurra.ops.kernels import linear  # noqa: PLC0415

    return linear.scan_backward(gate, dy, dh_n, inputs, h_0, y, reset, lengths, reverse)
