"""The laws of the cells that `test_triton.py` runs in Triton's interpreter."""

import pytest
import torch
from torch import Tensor

from cells import draw, meets, public, results
from recurra.ops import kernels, native
from recurra.ops.cell_forms import CELLS
from recurrences import LAYOUTS, Case, kept_apart
from recurrences import Drawn as Steps

# Every cell with every kind of masks, and the dtypes among them.
CASES = [
    ("gru", Case(5, 3, "none", batch=2), torch.float32),
    ("gru", Case(4, 17, "both", True, batch=17), torch.float32),
    ("gru", Case(3, 2, "both", batch=2), torch.bfloat16),
    ("lstm", Case(5, 3, "none", True, batch=2), torch.float32),
    ("lstm", Case(4, 5, "both", batch=3), torch.float32),
    ("lstm", Case(3, 2, "all true", True, batch=1), torch.float16),
    ("slstm", Case(5, 6, "none", batch=2), torch.float32),
    ("slstm", Case(5, 6, "both", True, batch=3), torch.float32),
    ("slstm", Case(4, 2, "reset", batch=2), torch.float16),
    ("slstm", Case(3, 5, "all false", batch=2), torch.bfloat16),
]


@pytest.fixture(autouse=True)
def triton(monkeypatch: pytest.MonkeyPatch) -> None:
    """The op of CPU tensors on these kernels."""
    monkeypatch.setattr(native, "takes", lambda *xs: xs[0].dtype in kernels.DTYPES)
    for name in ("cell", "cell_backward"):
        monkeypatch.setattr(native, name, getattr(kernels, name))


@pytest.mark.parametrize(("cell", "case", "dtype"), CASES)
def test_fp64_loop(cell: str, case: Case, dtype: torch.dtype) -> None:
    meets(public, cell, draw(cell, case, dtype), case.reverse)


@pytest.mark.parametrize("layout", ["time first", "channels first", "inner channels", "one step"])
def test_strides(layout: str) -> None:
    drawn = draw("lstm", Case(3, 4, "both", batch=2), torch.float32)
    (gates, *rest), (dy, dstate) = drawn.inputs, drawn.cotangents
    laid = LAYOUTS[layout](gates), LAYOUTS[layout](dy)
    meets(public, "lstm", drawn._replace(inputs=(laid[0], *rest), cotangents=(laid[1], dstate)), False)


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize(("batch", "time"), [(0, 2), (2, 0)])
def test_nothing_to_do(cell: str, batch: int, time: int) -> None:
    meets(public, cell, draw(cell, Case(time, 2, batch=batch), torch.float32), False)


@pytest.mark.parametrize(("cell", "reverse"), [("gru", True), ("lstm", False), ("slstm", False)])
def test_nothing_crosses_a_reset(cell: str, reverse: bool) -> None:
    drawn = draw(cell, Case(5, 2, batch=1), torch.float32)
    (gates, *parameters, state), (dy, dstate) = drawn.inputs, drawn.cotangents

    def run(steps: Steps, reverse: bool) -> list[Tensor]:
        inputs, masks = (*steps.xs, *parameters, steps.h_0), (steps.reset, None)
        got = results(public, cell, drawn._replace(inputs=inputs, masks=masks, cotangents=steps[4:]), reverse)
        return [got[name] for name in ("y", "state_n", "dgates", "dstate")]

    kept_apart(run, Steps((gates,), state, None, None, dy, dstate), 2, reverse)


def test_padding_is_not_read() -> None:
    drawn, lengths = draw("slstm", Case(4, 4, batch=2), torch.float32), torch.tensor([4, 2])
    gates = drawn.inputs[0].clone()
    gates[1, 2:] = torch.nan
    y, last = public("slstm", (gates, *drawn.inputs[1:]), None, lengths, False)
    assert last.isfinite().all()
    assert not y[1, 2:].any()
