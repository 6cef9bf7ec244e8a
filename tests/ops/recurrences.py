"""The table of the recurrent ops, what a law draws for a row of it, and the truth it is held to."""

import os
from collections.abc import Callable
from functools import cache, partial
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor

from recurra import ops
from recurra.ops import native
from recurra.ops.gated import CANDIDATES, FUSIONS, mingru_step, minlstm_step
from recurra.ops.linear import linear_step
from recurra.ops.loop import unroll
from recurra.ops.selective import selective_step
from recurra.ops.softmax import softmax_step
from recurra.ops.token_mix import token_mix_open
from recurra.state import ConvState, LinearState, SelectiveState, SoftmaxState
from tools import TOLERANCE, close

Inputs = tuple[Tensor, ...]
REAL = (torch.float32, torch.float64, torch.bfloat16)
COMPLEX = (torch.complex64, torch.complex128)


class Row(NamedTuple):
    """An op: its step, its public function, and the signs with which its gates keep."""

    step: Callable[..., Any]
    call: Callable[..., Any]
    dtypes: tuple[torch.dtype, ...] = REAL
    keeps: tuple[float, ...] = ()  # of every gate behind the candidate; () where the inputs are a and b
    names: tuple[str, ...] = ("a", "b")
    vectors: int = 0  # of the inputs, the last ones: some numbers a channel, none of time
    average: bool = False  # of scores and values; its state is packed into one tensor
    states: int = 0  # of a channel of the selective recurrence
    reversible: bool = True


def _gated(cell: str, candidate: str, keeps: tuple[float, ...], **how: bool) -> Row:
    step, call = {"mingru": (mingru_step, ops.mingru), "minlstm": (minlstm_step, ops.minlstm)}[cell]
    how = {"candidate": candidate, **how}
    return Row(partial(step, **how), partial(call, **how), REAL, keeps, ("gates",))


def _unpacked(state: LinearState, heads: int) -> SoftmaxState:
    return SoftmaxState(*state.h.split([heads, state.h.shape[-1] - 2 * heads, heads], -1))


def _average_step(
    scores: Tensor, values: Tensor, state: LinearState, *how: Tensor
) -> tuple[Tensor, LinearState]:
    y, last = softmax_step(scores, values, _unpacked(state, scores.shape[-1]), *how)
    return y, LinearState(torch.cat(last, -1))


def _average(scores: Tensor, values: Tensor, *rest: Any, reverse: bool) -> tuple[Tensor, LinearState]:
    *vectors, state, reset, lengths = rest
    how = dict(zip(("decay", "bonus"), vectors, strict=False))
    first = _unpacked(state, scores.shape[-1])
    y, last = ops.softmax(scores, values, first, reset, lengths, reverse=reverse, **how)
    return y, LinearState(torch.cat(last, -1))


def _selective_step(
    x: Tensor, delta: Tensor, B: Tensor, C: Tensor, *rest: Any
) -> tuple[Tensor, SelectiveState]:
    *z, state, A, D, bias = rest
    return selective_step(x, delta, A, B, C, D, bias, z[0] if z else None, state)


def _selective(x: Tensor, delta: Tensor, B: Tensor, C: Tensor, *rest: Any, reverse: bool) -> Any:
    *z, A, D, bias, state, reset, lengths = rest
    assert not reverse
    return ops.selective(x, delta, A, B, C, D, bias, z[0] if z else None, state, reset, lengths)


SELECTIVE = Row(
    _selective_step,
    _selective,
    names=("x", "delta", "B", "C", "z", "A", "D", "bias"),
    vectors=3,
    states=5,
    reversible=False,
)


def _difference(done: tuple[tuple[Tensor, ...], ConvState]) -> tuple[Tensor, LinearState]:
    """Of two mixes: neither may stand for the other."""
    (first, second), state = done
    return first - second, LinearState(state.x[:, 0])


def _mixes_step(x: Tensor, state: LinearState, *mixes: Tensor) -> tuple[Tensor, LinearState]:
    return _difference(token_mix_open(x, mixes, ConvState(state.h[:, None])))


def _mixes(x: Tensor, *rest: Any, reverse: bool) -> tuple[Tensor, LinearState]:
    *mixes, state, reset, lengths = rest
    assert not reverse
    return _difference(ops.token_mix(x, tuple(mixes), ConvState(state.h[:, None]), reset, lengths))


MIXES = Row(_mixes_step, _mixes, names=("x", "m", "n"), vectors=2, reversible=False)
AVERAGE = Row(_average_step, _average, REAL, (), ("scores", "values"), average=True)


ROWS: dict[str, Row] = {
    "linear": Row(linear_step, ops.linear),
    "linear complex": Row(linear_step, ops.linear, COMPLEX),
    **{f"mingru {c}": _gated("mingru", c, (-1,)) for c in CANDIDATES},
    **{f"minlstm {c}": _gated("minlstm", c, (1, -1)) for c in CANDIDATES},
    **{f"minlstm raw {c}": _gated("minlstm", c, (1, -1), normalized=False) for c in CANDIDATES},
    "softmax": AVERAGE,
    "softmax decaying": AVERAGE._replace(names=("scores", "values", "decay", "bonus"), vectors=2),
    "selective": SELECTIVE,
    "selective ungated": SELECTIVE._replace(names=tuple(n for n in SELECTIVE.names if n != "z"), states=1),
    "token mix": MIXES,
}
assert len(ROWS) == len(FUSIONS) + 7, "a fusion has no row here"


# ----------------------------------------------------------------------------------------------
# What is drawn.

# What the steps do with the state: with uniform decays a scan one pass short would go unseen.
KINDS = {"mixed": None, "forget all": (0.0, -40.0), "forget nothing": (1.0, 40.0), "slowly": (0.999, 6.9)}
MASKS = ("none", "reset", "lengths", "both", "all true", "all false")


class Case(NamedTuple):
    """One pairing of what a law varies."""

    time: int
    width: int
    masks: str = "none"
    reverse: bool = False
    kind: str = "mixed"
    batch: int = 3

    def __str__(self) -> str:
        way = "reversed" if self.reverse else "forward"
        return f"B{self.batch}-T{self.time}-D{self.width}-{self.masks}-{way}-{self.kind}"


def pairings(seed: int) -> list[Case]:
    """Every time with every kind of masks; the rest paired, differently for every seed."""
    times, widths = (0, 1, 2, 7, 64, 65, 257), (1, 3, 16, 17, 64, 65, 130)
    return [
        Case(
            time,
            widths[(3 * i + i // 7 + seed) % 7],
            masks,
            bool((i + i // 7 + seed) % 2),
            list(KINDS)[(i + i // 4 + seed) % 4],
            (1, 2, 3)[(i + seed) % 3],
        )
        for i, (time, masks) in enumerate((time, masks) for masks in MASKS for time in times)
    ]


class Drawn(NamedTuple):
    """Inputs and initial state, masks, and the cotangents of outputs and final state."""

    xs: Inputs
    h_0: Tensor
    reset: Tensor | None
    lengths: Tensor | None
    dy: Tensor
    dh_n: Tensor


def draw_masks(case: Case, draw: torch.Generator) -> tuple[Tensor | None, Tensor | None]:
    """reset and lengths as the case says; 'all true' and 'all false' are constant ones."""
    batch, time = case.batch, case.time
    reset = torch.rand(batch, time, generator=draw) < 0.2
    lengths = torch.randint(0, time + 1, (batch,), generator=draw)
    return {
        "none": (None, None),
        "reset": (reset, None),
        "lengths": (None, lengths),
        "both": (reset, lengths),
        "all true": (torch.ones_like(reset), torch.full_like(lengths, time)),
        "all false": (torch.zeros_like(reset), torch.zeros_like(lengths)),
    }[case.masks]


def draw(row: Row, case: Case, dtype: torch.dtype, seed: int = 0) -> Drawn:
    """What one case stands for, the same for every form."""
    rng = torch.Generator().manual_seed(seed)
    shape, state = (case.batch, case.time, case.width), torch.promote_types(dtype, torch.float32)
    normal = partial(torch.randn, generator=rng, dtype=torch.promote_types(dtype, torch.float32))
    xs: Inputs
    if row.average:
        return _draw_average(row, case, dtype, rng)
    if row.states:
        return _draw_selective(row, case, dtype, rng)
    if row.keeps:
        xs = (_gates(row, case, rng, normal(*shape[:2], case.width * (1 + len(row.keeps)))),)
    elif row.vectors:
        xs = (normal(*shape), *(normal(case.width) for _ in range(row.vectors)))
    else:
        xs = (_decays(case, normal(*shape)), normal(*shape))
    h_0, dh_n, dy = normal(case.batch, case.width), normal(case.batch, case.width), normal(*shape)
    masks = draw_masks(case, rng)
    return Drawn(tuple(x.to(dtype) for x in xs), h_0.to(state), *masks, dy.to(dtype), dh_n.to(state))


def _heads(row: Row, case: Case) -> int:
    """How many scores: one for 13, 4 or 3 channels where that divides the width, or one for each."""
    return case.width // next(size for size in (13, 4, 3, 1) if case.width % size == 0)


# By how much a score rises with most steps where nothing decays, or else by how much the older ones do.
AVERAGES = {
    "mixed": (0.0, 0.5),
    "forget all": (20.0, 20.0),
    "forget nothing": (0.0, 0.0),
    "slowly": (0.0, 0.001),
}


def _draw_average(row: Row, case: Case, dtype: torch.dtype, rng: torch.Generator) -> Drawn:
    normal = partial(torch.randn, generator=rng, dtype=torch.promote_types(dtype, torch.float32))
    steps, heads, width = (case.batch, case.time), _heads(row, case), case.width
    # The first score stays gentle: a gradient through what is forgotten alone is all rounding.
    rise, decay = (torch.full((heads,), x) for x in AVERAGES[case.kind])
    rise[0], decay[0] = 0, decay[0].clamp(max=0.5)
    rises = (torch.rand(*steps, heads, generator=rng) < 7 / 8).cumsum(1) * (0 if row.vectors else rise)
    scores = normal(*steps, heads) + (rises.flip(1) if case.reverse else rises)
    vectors = (decay * (1 + normal(heads).tanh() / 2), normal(heads))[: row.vectors]
    xs = tuple(x.to(dtype) for x in (scores, normal(*steps, width), *vectors))
    h_0 = torch.cat(
        [normal(case.batch, heads), normal(case.batch, width), normal(case.batch, heads).exp()], -1
    )
    masks, dy = draw_masks(case, rng), normal(*steps, width)
    return Drawn(xs, h_0, *masks, dy.to(dtype), normal(*h_0.shape))


# By how much a state decays in a time of 1.
RATES = {"mixed": 1.0, "forget all": 60.0, "forget nothing": 0.0, "slowly": 0.001}


def _draw_selective(row: Row, case: Case, dtype: torch.dtype, rng: torch.Generator) -> Drawn:
    normal = partial(torch.randn, generator=rng, dtype=torch.promote_types(dtype, torch.float32))
    steps, width, states = (case.batch, case.time), case.width, row.states
    A = -RATES[case.kind] * normal(width, states).exp()
    # One state stays gentle: a gradient through what is forgotten alone is all rounding.
    A[0, 0] = A[0, 0].clamp(min=-1)
    z = [normal(*steps, width)] if "z" in row.names else []
    inputs = normal(*steps, width), normal(*steps, width), normal(*steps, states), normal(*steps, states), *z
    xs = tuple(x.to(dtype) for x in (*inputs, A, normal(width), normal(width)))
    h_0, dh_n, dy = (
        normal(*s) for s in ((case.batch, states, width), (case.batch, states, width), (*steps, width))
    )
    return Drawn(xs, h_0, *draw_masks(case, rng), dy.to(dtype), dh_n)


def _decays(case: Case, x: Tensor) -> Tensor:
    level = KINDS[case.kind]
    return x / (1 + x.abs()) if level is None else torch.full_like(x, level[0])


def _gates(row: Row, case: Case, rng: torch.Generator, x: Tensor) -> Tensor:
    level = KINDS[case.kind]
    if level is None:
        return x
    # One gate in eight stays open: a gradient through shut gates alone is all rounding, in fp64 too.
    shut = torch.rand(case.batch, case.time, case.width, generator=rng) < 7 / 8
    shut[:, :1, :1] = False
    k, *gates = x.split(case.width, -1)
    shut_gates = [torch.where(shut, sign * level[1], g) for sign, g in zip(row.keeps, gates, strict=True)]
    return torch.cat([k, *shut_gates], -1)


def _every_other_step(x: Tensor) -> Tensor:
    return torch.stack([x, x], 2).flatten(1, 2)[:, ::2]


# The same shape laid out in memory in other ways; the last three repeat what they have.
LAYOUTS: dict[str, Callable[[Tensor], Tensor]] = {
    "contiguous": Tensor.contiguous,
    "time first": lambda x: x.transpose(0, 1).contiguous().transpose(0, 1),
    "channels first": lambda x: x.transpose(1, 2).contiguous().transpose(1, 2),
    "every other step": _every_other_step,
    "inner channels": lambda x: torch.cat([x, x, x], 2)[:, :, x.shape[2] : 2 * x.shape[2]],
    "one row": lambda x: x[:1].expand_as(x),
    "one step": lambda x: x[:, :1].expand_as(x),
    "one channel": lambda x: x[:, :, :1].expand_as(x),
}


# ----------------------------------------------------------------------------------------------
# The forms, and what comes out of them.


def loop(row: Row, xs: Inputs, h_0: Tensor, *rest: Any) -> tuple[Tensor, Tensor]:
    """The step, once after the other."""
    reset, lengths, reverse = rest
    reverse = reverse and row.reversible
    steps, vectors = xs[: len(xs) - row.vectors], xs[len(xs) - row.vectors :]
    if not xs[0].shape[1]:
        widest = max(steps, key=lambda x: x.shape[-1])
        return widest[..., : h_0.shape[-1]].clone(), h_0.clone()

    def step(*now: Any) -> Any:
        return row.step(*now, *vectors)

    y, state = unroll(step, steps, LinearState(h_0), reset, lengths, reverse=reverse)
    return y.to(xs[0].dtype), state.h


def plain(row: Row, xs: Inputs, h_0: Tensor, *rest: Any) -> tuple[Tensor, Tensor]:
    """What one calls, on a machine without kernels."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(native, "takes", lambda *_: False)
        return public(row, xs, h_0, *rest)


def compiled(row: Row, xs: Inputs, h_0: Tensor, *rest: Any) -> tuple[Tensor, Tensor]:
    """What one calls, through the C++ kernels and nothing else."""
    assert native.available()
    assert native.takes(*xs)
    return public(row, xs, h_0, *rest)


def public(row: Row, xs: Inputs, h_0: Tensor, *rest: Any) -> tuple[Tensor, Tensor]:
    """What one calls."""
    reset, lengths, reverse = rest
    y, state = row.call(*xs, LinearState(h_0), reset, lengths, reverse=reverse and row.reversible)
    return y, state.h


NATIVE = pytest.mark.skipif(os.environ.get("RECURRA_ISA") == "none", reason="RECURRA_ISA=none")
FORMS = [loop, plain, pytest.param(compiled, marks=NATIVE)]


def results(form: Callable[..., Any], row: Row, drawn: Drawn, reverse: bool) -> dict[str, Tensor]:
    """Outputs, final state, and the gradients of every input and of the initial state."""
    leaves = [x.detach().requires_grad_() for x in (*drawn.xs, drawn.h_0)]
    out = form(row, tuple(leaves[:-1]), leaves[-1], drawn.reset, drawn.lengths, reverse)
    grads = torch.autograd.grad(out, leaves, (drawn.dy, drawn.dh_n), materialize_grads=True)
    return dict(zip(["y", "h_n", *(f"d{n}" for n in row.names), "dh_0"], (*out, *grads), strict=True))


def allowed(key: str, dtype: torch.dtype) -> float:
    """In eps; a gradient that is one sum of differences over all rows and steps loses more to them."""
    return TOLERANCE[dtype] * (4 if key in ("ddecay", "dbonus") else 1)


def widen(x: Tensor | None) -> Any:
    """The same numbers in fp64 or complex128; masks as they are."""
    if x is None or not (x.is_floating_point() or x.is_complex()):
        return x
    return x.to(torch.complex128 if x.is_complex() else torch.float64)


def truth(row: Row, drawn: Drawn, reverse: bool) -> dict[str, Tensor]:
    """The fp64 step loop and autograd through it, on the same numbers."""
    wide = Drawn(tuple(widen(x) for x in drawn.xs), *(widen(x) for x in drawn[1:]))
    return results(loop, row, wide, reverse)


@cache
def drawn_truth(name: str, case: Case, dtype: torch.dtype) -> tuple[Drawn, dict[str, Tensor]]:
    """Inputs of a case and what must come out; kept for the forms that follow."""
    drawn = draw(ROWS[name], case, dtype)
    return drawn, truth(ROWS[name], drawn, case.reverse)


# ----------------------------------------------------------------------------------------------
# What a kernel must not let through.


def _spoilt(drawn: Drawn, side: slice, begins: bool) -> Drawn:
    """NaN in all that belongs to one side of a reset: that on which the walk begins, or ends."""

    def spoil(x: Tensor) -> Tensor:
        x = x.clone()
        x[:, side] = torch.nan
        return x

    xs = tuple(spoil(x) if x.shape[:2] == drawn.dy.shape[:2] else x for x in drawn.xs)
    state = {"h_0" if begins else "dh_n": torch.full_like(drawn.h_0, torch.nan)}
    return drawn._replace(xs=xs, dy=spoil(drawn.dy), **state)


def kept_apart(run: Callable[[Drawn, bool], list[Tensor]], drawn: Drawn, at: int, reverse: bool) -> None:
    """What comes out on one side of a reset is the same whatever is on the other; run: y, h_n, dxs, dh_0."""
    steps = drawn.dy.shape[:2]
    drawn = drawn._replace(reset=(torch.arange(steps[1]) == at).expand(steps).contiguous(), lengths=None)
    want = run(drawn, reverse)
    for side, other in ((slice(at), slice(at, None)), (slice(at, None), slice(at))):
        begins = (side.stop is None) == reverse
        got = run(_spoilt(drawn, side, begins), reverse)
        for x, y in zip((got[0], *got[2:-1]), (want[0], *want[2:-1]), strict=True):
            if y.shape[:2] == steps:
                close(x[:, other], y[:, other])
        state = 1 if begins else -1
        close(got[state], want[state])
