"""What the laws of the memory-mixing cells draw, and the truth that they are held to: the loop in fp64."""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ops.recurrences import Case, draw_masks, widen
from recurra import ops
from recurra.ops.cell_forms import CELLS, cell_loop
from tools import close

Form = Callable[..., tuple[Tensor, Tensor]]
CALLS: dict[str, Any] = {"gru": ops.gru, "lstm": ops.lstm, "slstm": ops.slstm}
NAMES = ["y", "state_n", "dgates", "dweight", "dbias", "dstate"]


class Drawn(NamedTuple):
    """(gates, weight, bias, state), the masks, and the cotangents of y and the last state."""

    inputs: tuple[Tensor, ...]
    masks: tuple[Tensor | None, Tensor | None]
    cotangents: tuple[Tensor, Tensor]


def draw(cell: str, case: Case, dtype: torch.dtype) -> Drawn:
    rng = torch.Generator().manual_seed(case.time + case.width)
    wide = torch.promote_types(dtype, torch.float32)
    batch, time, width = case.batch, case.time, case.width
    rows, states = CELLS[cell].parts * width, len(CELLS[cell].state._fields)
    heads = 1 if cell != "slstm" else next(n for n in (2, 5, 3, 1) if width % n == 0)
    square = (rows, width) if cell != "slstm" else (heads, rows // heads, width // heads)
    shapes = ((batch, time, rows), square, (rows,), (states, batch, width))
    inputs = [torch.randn(shape, generator=rng, dtype=wide) for shape in shapes]
    inputs[1] /= width**0.5
    if cell == "slstm":  # as steps leave it: one of what n has read weighs 1, and none is beyond 1
        inputs[3][2] = 1 + inputs[3][2].exp()
        inputs[3][1] = inputs[3][2] * inputs[3][1].tanh()
    dy, dstate = torch.randn(batch, time, width, generator=rng, dtype=wide), torch.randn_like(inputs[3])
    if cell == "slstm" and dtype != wide:
        # Rounding has a say in which of two nearly equal numbers is the largest, the unit of c, n and m.
        dstate[1:] = 0
    inputs[0] = inputs[0].to(dtype)
    return Drawn(tuple(inputs), draw_masks(case, rng), (dy.to(dtype), dstate))


def public(cell: str, inputs: tuple[Tensor, ...], *rest: Any) -> tuple[Tensor, Tensor]:
    """What one calls."""
    gates, weight, bias, state = inputs
    reset, lengths, reverse = rest
    y, last = CALLS[cell](gates, weight, bias, CELLS[cell].state(*state), reset, lengths, reverse=reverse)
    return y, torch.stack(tuple(last))


def loop(cell: str, inputs: tuple[Tensor, ...], *rest: Any) -> tuple[Tensor, Tensor]:
    reset, lengths, reverse = rest
    return cell_loop(*inputs, reset, lengths, cell, reverse)


def results(form: Form, cell: str, drawn: Drawn, reverse: bool) -> dict[str, Tensor]:
    """Outputs, last state, and the gradients of everything that is not a mask."""
    leaves = tuple(x.detach().requires_grad_() for x in drawn.inputs)
    out = form(cell, leaves, *drawn.masks, reverse)
    grads = torch.autograd.grad(out, leaves, drawn.cotangents, materialize_grads=True)
    return dict(zip(NAMES, (*out, *grads), strict=True))


def truth(cell: str, drawn: Drawn, reverse: bool) -> dict[str, Tensor]:
    wide = Drawn(
        tuple(map(widen, drawn.inputs)), drawn.masks, (widen(drawn.cotangents[0]), widen(drawn.cotangents[1]))
    )
    return results(loop, cell, wide, reverse)


def meets(form: Form, cell: str, drawn: Drawn, reverse: bool) -> None:
    dtype, wide = drawn.inputs[0].dtype, drawn.inputs[3].dtype
    want = truth(cell, drawn, reverse)
    for name, got in results(form, cell, drawn, reverse).items():
        assert got.dtype == (dtype if name in ("y", "dgates") else wide), name
        # In bf16 the backward pass reads h from y, which is rounded.
        rounded = dtype != wide and name.startswith("d")
        close(got if got.dtype == dtype or not rounded else got.to(dtype), want[name])
