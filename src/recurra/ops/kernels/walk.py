"""How the work on one shape is spread over a card: rows, blocks of channels and chunks of time."""

from typing import Any, NamedTuple

import torch
from torch import Tensor

from recurra.ops.kernels.tiles import View

Masks = tuple[Tensor | None, Tensor | None]


def ceil(a: int, b: int) -> int:
    """a / b, rounded up."""
    return -(-a // b)


def power(n: int) -> int:
    """The smallest power of two that is not below n."""
    return 1 << (n - 1).bit_length()


def view(x: Tensor) -> View:
    """Rows of neighbouring channels, as kernels see them."""
    return View(x, x.stride(0), x.stride(1))


def as_bytes(reset: Tensor | None, lengths: Tensor | None) -> Masks:
    """The masks as kernels read them."""
    return None if reset is None else reset.view(torch.uint8), lengths


def split(programs: int, time: int) -> int:
    """Steps a chunk, a multiple of 16, for programs of one warp that walk through time step by step.

    Not yet measured: chunks read the inputs twice, and pay where a card of 132 multiprocessors would idle.
    """
    if programs >= 1024 or time < 256:
        return ceil(time, 16) * 16
    return ceil(ceil(time, min(ceil(4096, programs), ceil(time, 64))), 16) * 16


class Walk(NamedTuple):
    """What every launch over one shape shares; `how`: the constants of the kernels, and their warps."""

    batch: int
    time: int
    blocks: int
    chunk: int
    sizes: tuple[int, ...]
    masks: Masks
    how: dict[str, Any]

    @property
    def chunks(self) -> int:
        """How many chunks time is cut into."""
        return ceil(self.time, self.chunk)

    def launch(self, kernel: Any, *args: Any) -> None:
        """Run a kernel on every row, block of channels and chunk."""
        grid = (self.batch * self.blocks, self.chunks)
        kernel[grid](*args, *self.masks, self.time, *self.sizes, self.chunk, **self.how)
