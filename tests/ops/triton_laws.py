"""The laws that `test_triton.py` runs in Triton's interpreter: each gate is the fp64 step loop."""

from collections.abc import Iterator
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor

from recurra.ops import kernels, native
from recurrences import KINDS, LAYOUTS, MASKS, ROWS, Case, Drawn, draw, kept_apart, truth
from tools import close

GATES = dict(zip((*native.GATES,), ("linear", *(name for name in ROWS if name[:3] == "min")), strict=True))
# What one time and one kind of masks each do to a gate; the masks' own kinds are paired with the rest.
CASES = [
    Case(7, 3, "none", batch=2),
    Case(9, 3, "both", reverse=True, batch=2),
    Case(6, 2, "none", reverse=True, batch=1),
]


@pytest.fixture(params=["one chunk", "chunks"])
def toy(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Tiles so small that a few steps fill several; outputs and scratch that are not written stay NaN."""
    from recurra.ops.kernels import linear  # noqa: PLC0415

    def plan(batch: int, time: int, width: int) -> Any:
        return linear.Plan(2, 2, 2, 1, 1, 4 if request.param == "chunks" and time > 4 else max(time, 1))

    monkeypatch.setattr(linear, "plan", plan)
    torch.use_deterministic_algorithms(True)
    torch.utils.deterministic.fill_uninitialized_memory = True
    yield
    torch.use_deterministic_algorithms(False)


def run(gate: str, drawn: Drawn, reverse: bool) -> list[Tensor]:
    """y, h_n, the gradients of the inputs and of h_0."""
    masks = (drawn.reset, drawn.lengths, reverse)
    y, h_n = kernels.scan(gate, drawn.xs, drawn.h_0, *masks)
    dxs, dh_0 = kernels.scan_backward(gate, drawn.dy, drawn.dh_n, drawn.xs, drawn.h_0, y, *masks)
    return [y, h_n, *dxs, dh_0]


def check(gate: str, drawn: Drawn, reverse: bool) -> None:
    """Everything that comes out is the loop's, in the dtype of the input or of the state."""
    dtype, want = drawn.dy.dtype, truth(ROWS[GATES[gate]], drawn, reverse)
    for (key, expected), got in zip(want.items(), run(gate, drawn, reverse), strict=True):
        assert got.dtype == (drawn.h_0.dtype if key in ("h_n", "dh_0") else dtype), key
        close(got, expected, eps=4 if dtype == torch.float16 else None)


@pytest.mark.usefixtures("toy")
@pytest.mark.parametrize("gate", GATES)
def test_fp64_loop(gate: str) -> None:
    case = CASES[list(GATES).index(gate) % len(CASES)]
    check(gate, draw(ROWS[GATES[gate]], case, torch.float32), case.reverse)


@pytest.mark.usefixtures("toy")
@pytest.mark.parametrize("masks", MASKS)
@pytest.mark.parametrize("reverse", [False, True])
def test_masks(masks: str, reverse: bool) -> None:
    for case in (Case(1, 1, masks, reverse), Case(6, 2, masks, reverse, batch=2)):
        check("mingru_linear", draw(ROWS["mingru linear"], case, torch.float32), reverse)


@pytest.mark.usefixtures("toy")
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", kernels.DTYPES)
def test_dtypes_and_decays(dtype: torch.dtype, kind: str) -> None:
    check(
        "minlstm_positive",
        draw(ROWS["minlstm positive"], Case(5, 2, "none", kind=kind, batch=1), dtype),
        False,
    )


@pytest.mark.usefixtures("toy")
@pytest.mark.parametrize(
    ("layout", "gate"), list(zip(LAYOUTS, ["linear", "minlstm_linear"] * 4, strict=True))
)
def test_strides(gate: str, layout: str) -> None:
    drawn = draw(ROWS[GATES[gate]], Case(5, 3, "both", batch=2), torch.float32)
    lay_out = LAYOUTS[layout]
    drawn = drawn._replace(xs=tuple(lay_out(x) for x in drawn.xs), dy=lay_out(drawn.dy))
    check(gate, drawn, False)


@pytest.mark.usefixtures("toy")
def test_a_time_major_input_gives_a_time_major_output() -> None:
    drawn = draw(ROWS["mingru tanh"], Case(5, 3), torch.float32)
    y, *_ = run("mingru_tanh", drawn._replace(xs=(LAYOUTS["time first"](drawn.xs[0]),)), False)
    assert native.time_major(y)


@pytest.mark.usefixtures("toy")
@pytest.mark.parametrize(("batch", "time"), [(0, 3), (2, 0)])
def test_nothing_to_do(batch: int, time: int) -> None:
    drawn = draw(ROWS["mingru positive"], Case(time, 3, batch=batch), torch.float32)
    y, h_n, dgates, dh_0 = run("mingru_positive", drawn, False)
    assert (y.shape, dgates.shape) == (drawn.dy.shape, drawn.xs[0].shape)
    assert h_n.equal(drawn.h_0)
    assert dh_0.equal(drawn.dh_n)


@pytest.mark.usefixtures("toy")
@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")
def test_a_reset_forgets_what_is_not_finite_and_padding_is_not_read() -> None:
    drawn = draw(ROWS["linear"], Case(7, 2, batch=2), torch.float32)
    reset, lengths = torch.zeros(2, 7, dtype=torch.bool), torch.tensor([7, 5])
    reset[:, 3] = True
    for x in (*drawn.xs, drawn.dy):
        x[1, 5:] = torch.nan
    drawn.xs[1][:, 2] = torch.inf
    y, h_n = kernels.scan("linear", drawn.xs, drawn.h_0, reset, lengths, False)
    assert y[:, 3:].isfinite().all()
    assert h_n.isfinite().all()
    assert not y[1, 5:].any()


@pytest.mark.usefixtures("toy")
@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")
@pytest.mark.parametrize(
    ("gate", "reverse"), [("linear", False), ("mingru_tanh", True), ("minlstm_linear", False)]
)
def test_nothing_crosses_a_reset(gate: str, reverse: bool) -> None:
    drawn = draw(ROWS[GATES[gate]], Case(9, 2, batch=1), torch.float32)
    kept_apart(partial(run, gate), drawn, 5, reverse)


@pytest.mark.usefixtures("toy")
@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")
@pytest.mark.parametrize("gate", ["mingru_tanh", "minlstm_linear", "minlstm_unnormalized_positive"])
def test_a_gate_that_is_no_number_gives_none(gate: str) -> None:
    drawn = draw(ROWS[GATES[gate]], Case(3, 2, batch=1), torch.float32)
    drawn.xs[0][:, 1, 2:4] = torch.nan
    y, *_ = run(gate, drawn, False)
    assert y.isnan().any(2).tolist() == [[False, True, True]]


def test_a_plan_covers_every_step() -> None:
    from recurra.ops.kernels import linear  # noqa: PLC0415

    for batch, time, width in [(1, 1, 1), (1, 65536, 256), (64, 5000, 3), (3, 257, 100), (1, 10**6, 1)]:
        p = linear.plan(batch, time, width)
        assert p.chunk % (p.run * p.runs) == 0
        assert p.chunk * -(-time // p.chunk) >= time
