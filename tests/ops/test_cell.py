"""Memory mixing: every form is the fp64 step loop, GRU's and LSTM's step is torch.nn's, and nothing else
changes a bit. The step of sLSTM has its oracle beside its block's."""

import re
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.library import opcheck

from cells import CALLS, NAMES, Form, draw, loop, meets, public, results
from ops.recurrences import LAYOUTS, MASKS, NATIVE, REAL, Case, pairings
from recurra.ops import kernels, native
from recurra.ops.cell import BACKWARD, OP, cell_native
from recurra.ops.cell_forms import CELLS
from tools import close

PEERS: dict[str, Any] = {"gru": nn.GRU, "lstm": nn.LSTM}

every = pytest.mark.parametrize("cell", list(CELLS))


def _plain(cell: str, inputs: tuple[Tensor, ...], *rest: Any) -> tuple[Tensor, Tensor]:
    """What one calls on a machine without kernels."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(native, "takes", lambda *_: False)
        patch.setattr(native, "prefers_product", lambda: False)
        return public(cell, inputs, *rest)


def _compiled(cell: str, inputs: tuple[Tensor, ...], *rest: Any) -> tuple[Tensor, Tensor]:
    assert native.takes(inputs[0])
    return public(cell, inputs, *rest)


def _cases() -> list[Any]:
    """fp32 takes every pairing, the other dtypes and the plain form a third each."""
    return [
        pytest.param(
            form, cell, dtype, case, marks=marks, id=f"{form.__name__[1:]}-{cell}-{str(dtype)[6:]}-{case}"
        )
        for form, marks in ((_compiled, [NATIVE]), (_plain, []))
        for seed, cell in enumerate(CELLS)
        for k, dtype in enumerate(REAL)
        for i, case in enumerate(pairings(seed))
        if (k == 0 and form is _compiled) or i % 3 == (k + seed) % 3
    ]


@pytest.mark.parametrize(("form", "cell", "dtype", "case"), _cases())
def test_fp64_loop(form: Form, cell: str, dtype: torch.dtype, case: Case) -> None:
    meets(form, cell, draw(cell, case, dtype), case.reverse)


@NATIVE
@every
@settings(max_examples=60)
@given(
    shape=st.tuples(st.integers(0, 40), st.integers(0, 12), st.integers(1, 70)),
    masks=st.sampled_from(MASKS),
    reverse=st.booleans(),
    dtype=st.sampled_from(REAL),
    layouts=st.tuples(*[st.sampled_from(list(LAYOUTS))] * 2),
)
def test_any_shape_and_strides(
    cell: str,
    shape: tuple[int, int, int],
    masks: str,
    reverse: bool,
    dtype: torch.dtype,
    layouts: tuple[str, str],
) -> None:
    batch, time, width = shape
    drawn = draw(cell, Case(time, width, masks, batch=batch), dtype)
    (gates, weight, bias, state), (dy, dstate) = drawn.inputs, drawn.cotangents
    gates, dy = LAYOUTS[layouts[0]](gates), LAYOUTS[layouts[1]](dy)
    weight, state = weight.mT.contiguous().mT, state.mT.contiguous().mT
    drawn = drawn._replace(inputs=(gates, weight, bias, state), cotangents=(dy, dstate))
    meets(_compiled, cell, drawn, reverse)


@pytest.mark.parametrize("cell", list(PEERS))
@pytest.mark.parametrize("form", [_plain, pytest.param(_compiled, marks=NATIVE)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_torch(form: Form, cell: str, dtype: torch.dtype) -> None:
    """nn.GRU and nn.LSTM themselves: outputs, last state, every gradient."""
    peer = PEERS[cell](5, 19, batch_first=True, dtype=dtype)
    x, h = torch.randn(4, 11, 5, dtype=dtype), torch.randn(1, 4, 19, dtype=dtype, requires_grad=True)
    leaves = (*peer.parameters(), h)
    want, last = peer(x, h if cell == "gru" else (h, h))
    gates = nn.functional.linear(x, peer.weight_ih_l0, peer.bias_ih_l0)
    state = torch.cat([h] * len(CELLS[cell].state._fields))
    y, ends = form(cell, (gates, peer.weight_hh_l0, peer.bias_hh_l0, state), None, None, False)
    last = last if cell == "gru" else torch.cat(last)
    close(y, want)
    close(ends, last)
    dy, dstate = torch.randn_like(y), torch.randn_like(ends)
    grads = torch.autograd.grad((want, last), leaves, (dy, dstate))
    for got, wanted in zip(torch.autograd.grad((y, ends), leaves, (dy, dstate)), grads, strict=True):
        close(got, wanted)


@every
def test_without_bias(cell: str) -> None:
    (gates, weight, bias, state), *_ = draw(cell, Case(5, 6), torch.float32)
    call, first = CALLS[cell], CELLS[cell].state(*state)
    got, want = call(gates, weight, state=first)[0], call(gates, weight, torch.zeros_like(bias), first)[0]
    assert got.equal(want)
    assert call(gates, weight)[0].equal(
        call(gates, weight, None, CELLS[cell].state(*torch.zeros_like(state)))[0]
    )


# ----------------------------------------------------------------------------------------------
# What must not matter.


@NATIVE
@every
@pytest.mark.usefixtures("level")
def test_instruction_sets(cell: str) -> None:
    for dtype in REAL:
        for batch, width in ((1, 3), (3, 17), (13, 64), (21, 35)):
            meets(_compiled, cell, draw(cell, Case(5, width, "both", batch=batch), dtype), batch == 3)


@NATIVE
@every
@pytest.mark.parametrize("batch", [1, 2, 7, 19, 40])
def test_threads_change_no_bit(cell: str, batch: int) -> None:
    """Enough of it to be shared out: rows that go together with others elsewhere."""
    case = Case(18, 70, "both", batch=batch)
    drawn, runs = draw(cell, case, torch.float32), []
    assert drawn.inputs[0].numel() * drawn.inputs[1].shape[-1] // 8 >= native.PARALLEL
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        runs.append(results(_compiled, cell, drawn, reverse=True))
    # Where the large products are torch's own, their bits are not ours to promise.
    ours = cell != "slstm" and native.prefers_product()
    for name in NAMES if ours else NAMES[:2]:
        assert runs[0][name].equal(runs[1][name]), name
        assert runs[0][name].equal(runs[2][name]), name


@NATIVE
@every
def test_rows_do_not_mix(cell: str) -> None:
    drawn = draw(cell, Case(6, 20, batch=11), torch.float32)
    gates, *rest = drawn.inputs
    want, _ = _compiled(cell, drawn.inputs, None, None, False)
    gates = gates.clone()
    gates[4] = float("nan")
    got, _ = _compiled(cell, (gates, *rest), None, None, False)
    others = torch.arange(11) != 4
    assert got[others].equal(want[others])


@every
@pytest.mark.parametrize("form", [_plain, pytest.param(_compiled, marks=NATIVE)])
def test_autocast_leaves_the_recurrence_alone(form: Form, cell: str) -> None:
    drawn = draw(cell, Case(8, 9, "both"), torch.float32)
    want = results(form, cell, drawn, False)
    with torch.autocast("cpu", torch.bfloat16):
        got = results(form, cell, drawn, False)
    # torch's own derivatives of the plain form are not meant to be taken under autocast.
    for name in NAMES[:2] if form is _plain else NAMES:
        close(got[name], want[name])


# ----------------------------------------------------------------------------------------------
# As an op of PyTorch.

SHAPES = ("test_schema", "test_faketensor")
FULL = (*SHAPES, "test_autograd_registration", "test_aot_dispatch_dynamic")
OPCHECKS = [
    (Case(2, 3, "both", True), torch.float32, FULL),
    (Case(5, 3, "none"), torch.bfloat16, SHAPES),
    (Case(0, 2), torch.float32, SHAPES),
    (Case(4, 17, "both", batch=0), torch.bfloat16, SHAPES),
]


@NATIVE
@every
@pytest.mark.parametrize(("case", "dtype", "utils"), OPCHECKS)
def test_opcheck(cell: str, case: Case, dtype: torch.dtype, utils: Any) -> None:
    drawn = draw(cell, case, dtype)
    rest = (*drawn.masks, cell, case.reverse)
    leaves = tuple(x.detach().requires_grad_() for x in drawn.inputs)
    opcheck(OP, (*leaves, *rest), test_utils=utils)
    y, _ = OP(*drawn.inputs, *rest)
    cotangents = (x.detach().requires_grad_() for x in drawn.cotangents)
    opcheck(BACKWARD, (*cotangents, *leaves, y, *rest), test_utils=utils)


@NATIVE
@every
@pytest.mark.parametrize("reverse", [False, True])
def test_derivatives(cell: str, reverse: bool) -> None:
    """First and second, against finite differences; forward mode too."""
    drawn = draw(cell, Case(3, 2, "both", batch=2), torch.float64)
    leaves = tuple(x.detach().requires_grad_() for x in drawn.inputs)

    def f(*xs: Tensor) -> tuple[Tensor, Tensor]:
        return _compiled(cell, xs, *drawn.masks, reverse)

    assert torch.autograd.gradcheck(f, leaves)
    assert torch.autograd.gradgradcheck(f, leaves, fast_mode=True)
    seeds = tuple(x.cos() for x in drawn.inputs)
    for got, want in zip(
        torch.func.jvp(f, drawn.inputs, seeds)[1],
        torch.func.jvp(lambda *xs: loop(cell, xs, *drawn.masks, reverse), drawn.inputs, seeds)[1],
        strict=True,
    ):
        close(got, want)


@every
def test_half_precision_takes_the_plain_form(cell: str) -> None:
    drawn = draw(cell, Case(4, 5), torch.float16)
    y, last = public(cell, drawn.inputs, None, None, False)
    assert (y.dtype, last.dtype) == (torch.float16, torch.float32)
    if native.level() in native.LEVELS:
        with pytest.raises(RuntimeError, match="native kernels take CPU tensors"):
            cell_native(*drawn.inputs, None, None, cell, False)


@every
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("major", [9, 10, 12])
def test_a_backward_pass_that_no_compiler_takes_is_not_tried(
    cell: str, dtype: torch.dtype, major: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kernels, "takes", lambda gates: True)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: SimpleNamespace(major=major))
    gates, weight = torch.empty(2, 3, 32, dtype=dtype), torch.empty(32, 8)
    hard = cell == "slstm" and dtype == torch.float32 and major >= 10
    assert kernels.takes_cell(cell, gates, weight, backward=True) != hard
    assert kernels.takes_cell(cell, gates, weight, backward=False)
    assert not kernels.takes_cell(cell, gates, torch.empty(65, 65), backward=False)


@every
def test_errors_name_the_argument(cell: str) -> None:
    (gates, weight, bias, state), *_ = draw(cell, Case(4, 5), torch.float32)
    call, first = CALLS[cell], CELLS[cell].state(*state)
    rows = gates.shape[2]
    wrong: list[tuple[tuple[Any, ...], str]] = [
        ((gates[0], weight), "gates must be floating point"),
        ((gates[..., :-1], weight), "gates must be floating point"),
        ((gates.long(), weight), "gates must be floating point"),
        ((gates, weight.mT), re.escape(f"weight_hh must be {list(weight.shape)}")),
        (
            (gates, torch.zeros(3, 4, 1)),
            r"heads, the first axis of weight_hh, must divide 5, got \[3, 4, 1\]",
        ),
        ((gates, weight.to("meta")), "weight_hh must be floating point on cpu"),
        ((gates, weight, bias[:-1]), rf"bias_hh must be \[{rows}\]"),
        ((gates, weight, bias.to(torch.complex64)), "bias_hh must be floating point"),
        ((gates, weight, bias, CELLS[cell].state(*state[:, :2])), r"state must be \[3, 5\]"),
        ((gates, weight, bias, (*first, *first)), "state must have the parts h"),
        ((gates, weight, bias, first, torch.zeros(3, 4)), "reset must be torch.bool"),
        ((gates, weight, bias, first, None, torch.tensor([1, 2, 5])), "lengths must lie in 0..4"),
    ]
    for args, said in wrong:
        with pytest.raises(ValueError, match=said):
            call(*args)


@pytest.mark.parametrize("form", [_plain, pytest.param(_compiled, marks=NATIVE)])
def test_an_empty_slstm_reads_its_first_input_whole(form: Form) -> None:
    """Exponents of any size, and whatever stands in c and m: where n is 0 nothing has been read."""
    gates, weight = torch.randn(2, 5, 24), torch.zeros(2, 12, 3)
    gates[..., :12] *= 1e4
    state = torch.stack(
        [torch.zeros(2, 6), torch.full((2, 6), 7.0), torch.zeros(2, 6), torch.full((2, 6), 5.0)]
    )
    bias, none = torch.zeros(24), (None, None, False)
    y, last = form("slstm", (gates, weight, bias, state), *none)
    assert y.equal(form("slstm", (gates, weight, bias, torch.zeros_like(state)), *none)[0])
    i, _, z, o = gates[:, 0].chunk(4, -1)
    close(y[:, 0], o.sigmoid() * z.tanh())
    assert last.isfinite().all()
    assert form("slstm", (gates[:, :1], weight, bias, state), *none)[1][3].equal(i)
