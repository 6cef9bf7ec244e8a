"""Compiles the Triton kernels for an H100 on a machine without one: run by `test_triton.py`.

Calls on CPU tensors choose the kernels and their arguments; of each the compiler makes a binary, and none
is launched. What only the compiler asks of a kernel - one type for each variable of a loop - shows here.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor
from triton.runtime import driver

from absent_card import Absent
from recurra.ops import kernels
from recurra.ops.kernels import convs, selectives, softmaxes
from recurra.ops.kernels.walk import Walk

B, T, D, N, TAPS = 2, 64, 32, 4, 4
MASKS = (torch.zeros(B, T, dtype=torch.bool), torch.full((B,), T))


def compile_only(walk: Walk, kernel: Any, *args: Any) -> None:
    """In place of `Walk.launch`."""
    sizes = (*walk.masks, walk.time, *walk.sizes, walk.chunk)
    assert kernel.run(*args, *sizes, grid=None, warmup=True, **walk.how).asm["cubin"]


def conv(rows: Callable[..., Tensor]) -> None:
    x, weight, state = rows(B, T, D), rows(D, TAPS), torch.empty(B, TAPS - 1, D)
    kernels.conv(x, weight, rows(D), state, *MASKS)
    kernels.conv_backward(x, state, x, weight, state, *MASKS)


def selective(rows: Callable[..., Tensor]) -> None:
    inputs = tuple(rows(B, T, size) for size in (D, D, N, N, D))
    parameters, h_0 = (torch.empty(N, D), torch.empty(D), torch.empty(D)), torch.empty(B, N, D)
    y, h_n, entering = kernels.selective(inputs, parameters, h_0, MASKS)
    kernels.selective_backward((y, h_n), inputs, parameters, entering, MASKS)


def softmax(rows: Callable[..., Tensor], heads: int) -> None:
    vectors, state = (torch.empty(heads), torch.empty(heads)), torch.empty(B, 2 * heads + D)
    inputs = (rows(B, T, heads), rows(B, T, D), *vectors, state, *MASKS, False)
    y, state_n = kernels.softmax(*inputs)
    kernels.softmax_backward(y, state_n, *inputs)


def main() -> None:
    driver.set_active(Absent())
    Walk.launch = compile_only
    # Few steps at once and several chunks: every kernel, and soon.
    convs.plan = lambda *shape: (16, 32, 32)
    selectives.plan = lambda *shape: (2, 16, 32)
    softmaxes.plan = lambda batch, time, heads, group: softmaxes.Plan(2, min(heads, 16), 1, 32)
    rows = partial(torch.empty, dtype=torch.bfloat16)
    conv(rows)
    selective(rows)
    softmax(rows, D)
    softmax(rows, 2)


main()
