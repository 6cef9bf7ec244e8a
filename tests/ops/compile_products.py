"""Compile the kernels made of matrix products for an H100 without one: `test_triton.py`.

Nothing runs: a launch is compiled down to machine code. That fails where a kernel means nothing to the
compiler, though the interpreter takes it, or where it asks for more shared memory than a processor has.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from triton.runtime import driver
from triton.runtime.jit import JITFunction

from absent_card import Absent
from recurra.ops import kernels

SHARED = 232448  # bytes of a processor that a program can have


def compiled(kernel: Any, grid: Any) -> Callable[..., None]:
    """What stands for kernel[grid]."""

    def launch(*args: Any, **how: Any) -> None:
        found = kernel.warmup(*args, grid=grid, **how)
        assert found.metadata.shared <= SHARED, (kernel.fn.__name__, found.metadata.shared)
        print(kernel.fn.__name__, found.metadata.shared, flush=True)  # noqa: T201

    return launch


def masks(batch: int, time: int, there: bool) -> tuple[Tensor | None, Tensor | None]:
    if not there:
        return None, None
    return torch.zeros(batch, time, dtype=torch.bool), torch.zeros(batch, dtype=torch.int64)


def cell(kind: str, dtype: torch.dtype, batch: int, time: int, heads: int, channels: int) -> None:
    parts, states = {"gru": (3, 1), "lstm": (4, 2), "slstm": (4, 4)}[kind]
    width, given = heads * channels, masks(batch, time, time > 1)
    x, y = (torch.zeros(batch, time, n * width, dtype=dtype) for n in (parts, 1))
    weight, bias = torch.zeros(heads, parts * channels, channels), torch.zeros(parts * width)
    state, mixed = torch.zeros(states, batch, width), torch.zeros(heads, batch * time, parts * channels)
    kernels.cell(kind, x, weight, bias, state, *given, time > 1)
    kernels.cell_backward(kind, (y, state), x, weight, state, (y.float(), mixed), given, time > 1)


def outer(mode: str, dtype: torch.dtype, batch: int, time: int, heads: int, keys: int, values: int) -> None:
    gated, of_keys, given = mode == "gated", mode in ("of keys", "bonus"), masks(batch, time, time > 1)
    q, v, decay = (torch.zeros(batch, time, heads, n, dtype=dtype) for n in (keys, values, keys))
    decay = decay if of_keys else decay[..., 0].contiguous()
    gate, bonus = decay if gated else None, torch.zeros(heads, keys) if mode.startswith("bonus") else None
    sizes = (heads, keys, values), (heads, keys * gated), (heads * gated,)
    state = tuple(torch.zeros(batch, *size) for size in sizes)
    inputs, none = (q, q, v, decay), torch.zeros(0)
    kernels.outer(inputs, gate, bonus, state, given, 0.5, True)
    kernels.outer_backward((v, *state), inputs, gate, bonus, (state, state), none, given, 0.5)


FP32, BF16, FP16 = kernels.DTYPES
# Sizes of one are constants to the compiler.
SMALL = [(mode, FP32, 1, 1, 1, 1, 1) for mode in ("gated", "of heads", "bonus")]
KINDS = (("gated", BF16), ("of heads", FP16), ("of keys", FP32), ("bonus", BF16), ("gated", FP32))
LARGE = [(mode, dtype, 2, 130, 2, 72, 40) for mode, dtype in KINDS]

if __name__ == "__main__":
    driver.set_active(Absent())  # type: ignore[arg-type]
    JITFunction.__getitem__ = compiled  # type: ignore[method-assign]
    for kind, dtype in (("gru", FP32), ("lstm", BF16), ("slstm", FP16)):
        cell(kind, dtype, 1, 1, 1, 1)
        cell(kind, dtype, 17, 9, 2 if kind == "slstm" else 1, 64)
    cell("slstm", FP32, 17, 9, 2, 64)
    for case in (*SMALL, *LARGE):
        outer(*case)
