"""The matrix memory and the memory-mixing cells for `gpu.py`: inputs, kernels, truth."""

from collections.abc import Callable

import torch
from torch import Tensor

from recurra import ops
from recurra.ops.cell_forms import CELLS, cell_loop
from recurra.ops.outer_forms import Inputs, outer_loop
from recurra.state import OuterState

Draw = Callable[..., Tensor]
Shape = tuple[int, int, int]
Drawn = tuple[list[Tensor], tuple[Tensor, ...]]  # leaves, and the cotangents of what comes out
OUTERS = ("outer gated", "outer of heads", "outer of keys", "outer bonus")
NAMES = (*OUTERS, *CELLS)


def drawn(name: str, shape: Shape, dtype: torch.dtype, normal: Draw) -> Drawn:
    """Of batch, steps and width: keys of each of two heads, or channels of a cell's head."""
    if name in OUTERS:
        return outer_drawn(name, shape, dtype, normal, 2, shape[2] // 2 + 1)
    return cell_drawn(name, shape, dtype, normal, 2 if name == "slstm" else 1)


def public(
    name: str, *leaves: Tensor, reset: Tensor | None, lengths: Tensor | None, reverse: bool
) -> tuple[Tensor, ...]:
    """The recurrence as one calls it."""
    if name in OUTERS:
        inputs, bonus, state = _arranged(name, leaves)
        return _flat(*ops.outer(*inputs, state, reset, lengths, bonus=bonus, scale=0.5))
    gates, weight, bias, start = leaves
    state = CELLS[name].state(*start)
    y, last = getattr(ops, name)(gates, weight, bias, state, reset, lengths, reverse=reverse)
    return y, torch.stack(tuple(last))


def truth(
    name: str, *leaves: Tensor, reset: Tensor | None, lengths: Tensor | None, reverse: bool
) -> tuple[Tensor, ...]:
    """The step, once after the other."""
    if name in OUTERS:
        return _flat(*outer_loop(*_arranged(name, leaves), reset, lengths, 0.5))
    return cell_loop(*leaves, reset, lengths, name, reverse)


def outer_drawn(name: str, shape: Shape, dtype: torch.dtype, normal: Draw, heads: int, values: int) -> Drawn:
    """Of batch, steps, and keys of a head."""
    batch, steps, keys = shape
    gated, of_keys = name == "outer gated", name in ("outer of keys", "outer bonus")
    q, k, v = (normal(batch, steps, heads, size) for size in (keys, keys, values))
    decay = -normal(batch, steps, heads, *((keys,) if of_keys else ())).abs()
    if gated:  # of one sign: a divisor that cancels is all rounding
        q, k = q.abs(), k.abs()
    given = [x.to(dtype) for x in (q, k, v, decay, *((normal(batch, steps, heads),) if gated else ()))]
    bonus = [normal(heads, keys)] if name == "outer bonus" else []
    sizes = (heads, keys, values), (heads, keys), (heads,)
    start = [normal(batch, *size) for size in sizes[: 1 + gated]]
    start = [start[0], *(n.abs() for n in start[1:])]
    ends = (normal(batch, *size) for size in sizes[: 1 + 2 * gated])
    return [*given, *bonus, *start], (normal(batch, steps, heads, values), *ends)


def _arranged(name: str, leaves: tuple[Tensor, ...]) -> tuple[Inputs, Tensor | None, OuterState]:
    (q, k, v, decay), rest = leaves[:4], list(leaves[4:])
    gate = rest.pop(0) if name == "outer gated" else None
    bonus = rest.pop(0) if name == "outer bonus" else None
    c, wide = rest[0], gate is not None
    n = rest[1] if wide else c.new_zeros(*c.shape[:2], 0)
    # Not a leaf: of a max, a difference of what its units are made of, most would be rounding.
    return Inputs(q, k, v, decay, gate), bonus, OuterState(c, n, c.new_zeros(c.shape[0], c.shape[1] * wide))


def _flat(y: Tensor, state: OuterState) -> tuple[Tensor, ...]:
    return y, *(x for x in state if x.numel())


def cell_drawn(name: str, shape: Shape, dtype: torch.dtype, normal: Draw, heads: int) -> Drawn:
    """Of batch, steps, and channels of a head."""
    (batch, steps, channels), parts = shape, CELLS[name].parts
    width, square = heads * channels, (parts * channels, channels)
    weight = normal(*((heads,) if name == "slstm" else ()), *square) / channels**0.5
    start = normal(len(CELLS[name].state._fields), batch, width)
    if name == "slstm":  # as steps leave it: what n has read weighs at least 1
        start[2] = 1 + start[2].exp()
        start[1] = start[2] * start[1].tanh()
    leaves = [normal(batch, steps, parts * width).to(dtype), weight, normal(parts * width), start]
    return leaves, (normal(batch, steps, width), normal(*start.shape))


def shapes(toy: bool) -> list[Shape]:
    """Batch, steps, width: some that fill no tile, and one that fills them."""
    return [(2, 20, 5)] if toy else [(3, 300, 40), (17, 64, 64)]
