"""How the kernels want tensors to lie in memory."""

import math

from torch import Tensor

from recurra.ops.native.library import find

# From this size on, memory is asked for on huge pages.
_HUGE = 1 << 23


def as_rows(x: Tensor) -> Tensor:
    """[B, T, ...] as [B, T, D] with neighbouring channels side by side in memory."""
    # Not -1: an axis may be empty.
    x = x if x.ndim == 3 else x.reshape(x.shape[0], x.shape[1], math.prod(x.shape[2:]))
    x = x.resolve_conj() if x.is_complex() else x
    return x if x.stride(2) == 1 or x.shape[2] == 1 else x.contiguous()


def view_of(x: Tensor) -> tuple[int, int, int]:
    """The fields of a View in csrc/abi.h."""
    return x.data_ptr(), x.stride(0), x.stride(1)


def flat_rows(x: Tensor) -> Tensor:
    """[rows, width] of [..., width], without a copy where the rows are equally far apart."""
    x = x[None] if x.ndim < 2 else x.flatten(0, -2)
    return x if x.stride(1) == 1 else x.contiguous()


def rows_of(x: Tensor | None) -> tuple[int, int]:
    """The fields of a Rows in csrc/abi.h; of None, those of no rows."""
    return (0, 0) if x is None else (x.data_ptr(), x.stride(0))


def views_of(xs: tuple[Tensor, ...], width: int) -> list[int]:
    """Three views; one tensor of fused gates gives one view for each of its parts."""
    views = [view_of(x) for x in xs]
    if len(xs) == 1:
        p, b, t = views[0]
        size = xs[0].element_size() * width
        views = [(p + i * size, b, t) for i in range(xs[0].shape[2] // width)]
    flat = [field for view in views for field in view]
    return flat + [0] * (9 - len(flat))


def time_major(x: Tensor) -> bool:
    """True for a [B, T, ...] view of memory laid out [T, B, ...]."""
    return x.shape[0] > 1 and x.stride(0) < x.stride(1)


def empty_rows(x: Tensor, width: int) -> Tensor:
    """Uninitialised [B, T, width] in the memory order of x."""
    batch, time = x.shape[:2]
    if time_major(x):
        return x.new_empty(time, batch, width).transpose(0, 1)
    return x.new_empty(batch, time, width)


def empty_as(x: Tensor) -> Tensor:
    """Uninitialised, of the shape of x: the layout of every output, on which compiled code relies."""
    return empty_rows(x, x.shape[2]) if x.ndim == 3 else x.new_empty(x.shape)


def lay_out(x: Tensor, like: Tensor) -> Tensor:
    """x in the layout of `empty_as(like)`."""
    out = empty_as(like)
    return x if x.stride() == out.stride() else out.copy_(x)


def advise(x: Tensor) -> Tensor:
    """The same fresh tensor; a large one on huge pages where the system has them for the asking."""
    library = find()[0]
    if library is not None and x.numel() * x.element_size() >= _HUGE:
        library.recurra_advise(x.data_ptr(), x.numel() * x.element_size())
    return x


def pointer(x: Tensor | None) -> int:
    """Where x begins; 0 for None."""
    return 0 if x is None else x.data_ptr()
