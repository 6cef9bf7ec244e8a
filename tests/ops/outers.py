"""What the laws of the matrix memory draw, and the truth that they are held to: the loop in fp64."""

from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ops.recurrences import Case, draw_masks
from recurra import ops
from recurra.ops.outer_forms import Inputs, outer_loop
from recurra.state import OuterState
from tools import TOLERANCE, close

# Whose decays: of a head, of each key; with a gate, with a bonus.
MODES = ("gated", "of heads", "of keys", "bonus", "bonus of heads")
# By how much most steps decay; one in eight is gentle: a gradient of what is forgotten is all rounding.
RATES = {"mixed": 1.0, "forget all": 40.0, "forget nothing": 0.0, "slowly": 0.001}
# A max is a difference of what its units are made of.
LOOSE = {"dmax": 64.0}


class Drawn(NamedTuple):
    """What a form takes, and the cotangents of y and of the state's parts."""

    tensors: dict[str, Tensor]
    masks: tuple[Tensor | None, Tensor | None]
    cotangents: tuple[Tensor, ...]


def draw(mode: str, size: tuple[int, ...], masks: str, kind: str, dtype: torch.dtype) -> Drawn:
    (time, heads, keys, values), batch = size, 2
    rng = torch.Generator().manual_seed(time + keys)
    wide = torch.promote_types(dtype, torch.float32)
    normal = partial(torch.randn, generator=rng, dtype=wide)
    gated, steps = mode == "gated", (batch, time, heads)
    decay = -RATES[kind] * normal(*steps, *((keys,) if mode in ("of keys", "bonus") else ())).abs()
    decay = torch.where(torch.rand(decay.shape, generator=rng) < 7 / 8, decay, decay.clamp(min=-0.1))
    decay[:, :1] = decay[:, :1].clamp(min=-0.1)
    given = {
        "q": normal(*steps, keys),
        "k": normal(*steps, keys),
        "v": normal(*steps, values),
        "decay": decay,
    }
    if gated:  # one sign in all: a divisor that cancels is all rounding
        given |= {"gate": normal(*steps), "q": given["q"].abs(), "k": -given["k"].abs()}
    if masks == "all true":  # a step by itself is divided by one alone where it is small
        given["q"] = given["q"] / 50
    given = {name: x.to(dtype) for name, x in given.items()}
    given |= {"bonus": normal(heads, keys)} if mode.startswith("bonus") else {}
    shapes = ((batch, heads, keys, values), (batch, heads, keys * gated), (batch, heads * gated))
    first = dict(zip(("c", "n", "max"), (normal(*shape) for shape in shapes), strict=True))
    first["n"] = -first["n"].abs()
    dy = normal(*steps, values).to(dtype)
    case = Case(time, keys, masks, batch=batch)
    return Drawn(given | first, draw_masks(case, rng), (dy, *(normal(*shape) for shape in shapes)))


def called(inputs: Inputs, bonus: Tensor | None, first: OuterState, *rest: Any) -> tuple[Tensor, OuterState]:
    """What one calls."""
    *masks, scale = rest
    return ops.outer(*inputs, first, *masks, bonus=bonus, scale=scale)


def results(form: Any, drawn: Drawn, dtype: torch.dtype | None = None) -> dict[str, Tensor]:
    """Outputs, last state, and the gradients of every input and of the first state, unless empty."""
    at = {name: x.detach().to(dtype or x.dtype).requires_grad_() for name, x in drawn.tensors.items()}
    inputs = Inputs(at["q"], at["k"], at["v"], at["decay"], at.get("gate"))
    y, last = form(inputs, at.get("bonus"), OuterState(at["c"], at["n"], at["max"]), *drawn.masks, 0.5)
    seeds = [x.to(dtype or x.dtype) for x in drawn.cotangents]
    grads = torch.autograd.grad((y, *last), list(at.values()), seeds, materialize_grads=True)
    names = ["y", "c_n", "n_n", "max_n", *(f"d{name}" for name in at)]
    return {name: x for name, x in zip(names, (y, *last, *grads), strict=True) if x.numel()}


def meets(form: Any, drawn: Drawn) -> None:
    want = results(outer_loop, drawn, torch.float64)
    # Sums that cancel in the gradient of a decay: where every step is cut off nothing is left but rounding.
    sums = (drawn.tensors["q"] * want["dq"]).sum(-1).abs().amax() if "dq" in want else 0.0
    for name, got in results(form, drawn).items():
        if want[name].abs().amax() < 1e-12:
            assert got.abs().amax() <= torch.finfo(got.dtype).eps * sums
            continue
        close(got, want[name], TOLERANCE[got.dtype] * LOOSE.get(name, 1.0))
