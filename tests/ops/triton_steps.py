"""The laws that `test_triton.py` runs in Triton's interpreter for the kernels that go step by step."""

from collections.abc import Callable, Iterator
from functools import partial
from importlib import import_module
from typing import Any

import pytest
import torch
from torch import Tensor

from recurra.ops import kernels, native
from recurra.ops.causal_conv import causal_conv_step
from recurra.ops.loop import unroll
from recurra.state import ConvState
from recurrences import KINDS, LAYOUTS, ROWS, Case, Drawn, draw, draw_masks, kept_apart, truth
from tools import close


def conv_truth(drawn: Drawn) -> dict[str, Tensor]:
    """As `truth`, of a convolution."""
    x, weight, bias, state = (v.double().requires_grad_() for v in (*drawn.xs, drawn.h_0))

    def step(x: Tensor, before: ConvState) -> tuple[Tensor, ConvState]:
        return causal_conv_step(x, before, weight, bias)

    y, end = unroll(step, (x,), ConvState(state), drawn.reset, drawn.lengths)
    leaves, seeds = (x, weight, bias, state), (drawn.dy.double(), drawn.dh_n.double())
    grads = torch.autograd.grad((y, end.x), leaves, seeds, materialize_grads=True)
    return dict(zip(["y", "h_n", "dx", "dweight", "dbias", "dh_0"], (y, end.x, *grads), strict=True))


def draw_conv(taps: int, case: Case, dtype: torch.dtype) -> Drawn:
    """x, weight, bias and what goes with them."""
    rng = torch.Generator().manual_seed(taps)
    normal = partial(torch.randn, generator=rng)
    shape, state = (case.batch, case.time, case.width), (case.batch, taps - 1, case.width)
    xs = (normal(*shape).to(dtype), normal(case.width, taps).to(dtype), normal(case.width).to(dtype))
    return Drawn(xs, normal(*state), *draw_masks(case, rng), normal(*shape).to(dtype), normal(*state))


def conv(drawn: Drawn, reverse: bool) -> list[Tensor]:
    x, weight, bias = drawn.xs
    masks = (drawn.reset, drawn.lengths)
    y, state_n = kernels.conv(x, weight, bias, drawn.h_0, *masks)
    dx, dweight, dbias, dstate = kernels.conv_backward(drawn.dy, drawn.dh_n, x, weight, drawn.h_0, *masks)
    return [y, state_n, dx, dweight, dbias, dstate]


def selective(drawn: Drawn, reverse: bool) -> list[Tensor]:
    *inputs, A, D, bias = drawn.xs
    gated, (batch, time, _) = len(inputs) == 5, inputs[0].shape
    inputs += [] if gated else [inputs[0].new_empty(batch, time, 0)]
    parameters, masks = (A.t().float(), D.float(), bias.float()), (drawn.reset, drawn.lengths)
    y, h_n, entering = kernels.selective(tuple(inputs), parameters, drawn.h_0, masks)
    grads = kernels.selective_backward((drawn.dy, drawn.dh_n), tuple(inputs), parameters, entering, masks)
    *rows, dz, dA, dD, dbias, dh_0 = grads
    assert dz.shape == inputs[4].shape
    return [y, h_n, *rows, *([dz] if gated else []), dA.t(), dD, dbias, dh_0]


def softmax(drawn: Drawn, reverse: bool) -> list[Tensor]:
    scores, values, *given = drawn.xs
    vectors = [x.float() for x in given] or [torch.zeros(scores.shape[2])] * 2
    inputs = (scores, values, *vectors, drawn.h_0, drawn.reset, drawn.lengths, reverse)
    y, state_n = kernels.softmax(*inputs)
    ds, dv, *rest, dstate = kernels.softmax_backward(drawn.dy, drawn.dh_n, *inputs)
    return [y, state_n, ds, dv, *(rest if given else []), dstate]


RUNS: dict[str, Callable[[Drawn, bool], list[Tensor]]] = {
    "conv": conv,
    "selective": selective,
    "selective ungated": selective,
    "softmax": softmax,
    "softmax decaying": softmax,
}
STATE = {"h_n", "dh_0", "dA", "dD", "ddecay", "dbonus"}  # in fp32 whatever the inputs are


def drawn_for(name: str, case: Case, dtype: torch.dtype) -> Drawn:
    return draw_conv(4, case, dtype) if name == "conv" else draw(ROWS[name], case, dtype)


def check(name: str, drawn: Drawn, reverse: bool = False) -> None:
    """Everything that comes out is the fp64 loop's, in the dtype of the input or of the state."""
    dtype = drawn.dy.dtype
    want = conv_truth(drawn) if name == "conv" else truth(ROWS[name], drawn, reverse)
    for (key, expected), got in zip(want.items(), RUNS[name](drawn, reverse), strict=True):
        state = key in STATE or (key == "dbias" and name != "conv")
        assert got.dtype == (torch.float32 if state else dtype), key
        close(got, expected, eps={torch.float32: 64, torch.bfloat16: 4, torch.float16: 4}[got.dtype])


@pytest.fixture(params=[1, 4], ids=["one chunk", "chunks"])
def toy(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Tiles so small that a few steps fill several; outputs and scratch that are not written stay NaN."""
    files = ("convs", "linear", "selectives", "softmaxes")
    convs, linear, selectives, softmaxes = (import_module(f"recurra.ops.kernels.{name}") for name in files)
    chunk, block = (4, 2) if request.param == 4 else (32, 4)
    monkeypatch.setattr(convs, "plan", lambda batch, time, width: (4, block, chunk))
    monkeypatch.setattr(selectives, "plan", lambda batch, time, width: (2, block, chunk))
    monkeypatch.setattr(softmaxes, "plan", lambda b, t, h, g: softmaxes.Plan(2, block, 1, chunk))
    monkeypatch.setattr(linear, "plan", lambda b, t, width: linear.Plan(1, 2, 16, 1, 1, t + t % 2))
    torch.use_deterministic_algorithms(True)
    torch.utils.deterministic.fill_uninitialized_memory = True
    yield
    torch.use_deterministic_algorithms(False)


one_chunk = pytest.mark.parametrize("toy", [1], indirect=True)
chunks = pytest.mark.parametrize("toy", [4], indirect=True)


@pytest.mark.usefixtures("toy")
@pytest.mark.parametrize("name", RUNS)
def test_fp64_loop(name: str) -> None:
    reverse = "softmax" in name
    check(name, drawn_for(name, Case(6, 3, "both", reverse, batch=2), torch.float32), reverse)


@one_chunk
@pytest.mark.usefixtures("toy")
@pytest.mark.parametrize("name", ["conv", "selective", "softmax decaying"])
@pytest.mark.parametrize("dtype", kernels.DTYPES)
def test_one_step_of_every_dtype(dtype: torch.dtype, name: str) -> None:
    check(name, drawn_for(name, Case(1, 2, "none", batch=1), dtype))


@chunks
@pytest.mark.usefixtures("toy")
@pytest.mark.parametrize("kind", list(KINDS)[1:])
@pytest.mark.parametrize("name", ["selective ungated", "softmax decaying"])
def test_decays(name: str, kind: str) -> None:
    check(name, drawn_for(name, Case(5, 2, "none", kind=kind, batch=1), torch.float32))


@chunks
@pytest.mark.usefixtures("toy")
@pytest.mark.parametrize(
    ("name", "layout"),
    [("conv", "time first"), ("selective ungated", "inner channels"), ("softmax", "channels first")],
)
def test_strides(name: str, layout: str) -> None:
    drawn, lay_out = drawn_for(name, Case(5, 4, "all false", batch=2), torch.float32), LAYOUTS[layout]
    drawn = drawn._replace(xs=tuple(lay_out(x) if x.ndim == 3 else x for x in drawn.xs), dy=lay_out(drawn.dy))
    check(name, drawn._replace(lengths=torch.tensor([5, 2])))


@one_chunk
@pytest.mark.usefixtures("toy")
@pytest.mark.parametrize("taps", [1, 6])
def test_taps_reach_over_tiles(taps: int) -> None:
    check("conv", draw_conv(taps, Case(9, 2, "reset", batch=1), torch.float32))


@one_chunk
@pytest.mark.usefixtures("toy")
def test_kept_states_are_found_again() -> None:
    case = Case(native.CHUNK + 3, 1, "reset", batch=1)
    check("selective ungated", drawn_for("selective ungated", case, torch.float32))


@one_chunk
@pytest.mark.usefixtures("toy")
@pytest.mark.parametrize("name", ["selective", "softmax"])
@pytest.mark.parametrize(("batch", "time"), [(0, 3), (2, 0)])
def test_nothing_to_do(name: str, batch: int, time: int) -> None:
    drawn = drawn_for(name, Case(time, 2, batch=batch), torch.float32)
    y, h_n, *_, dh_0 = RUNS[name](drawn, False)
    assert y.shape == drawn.dy.shape
    assert h_n.equal(drawn.h_0)
    assert dh_0.equal(drawn.dh_n)


@one_chunk
@pytest.mark.usefixtures("toy")
@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")
@pytest.mark.parametrize("name", ["conv", "selective ungated", "softmax"])
def test_a_reset_forgets_what_is_not_finite_and_padding_is_not_read(name: str) -> None:
    drawn = drawn_for(name, Case(5, 2, batch=2), torch.float32)
    reset, lengths = torch.zeros(2, 5, dtype=torch.bool), torch.tensor([5, 4])
    reset[:, 3] = True
    rows: list[Any] = [x for x in (*drawn.xs, drawn.dy) if x.ndim == 3]
    for x in rows:
        x[1, 4:] = torch.nan
    rows[1 if name == "softmax" else 0][:, 2] = torch.inf
    y, h_n, *_ = RUNS[name](drawn._replace(reset=reset, lengths=lengths), False)
    assert y[:, 3:].isfinite().all()
    assert h_n.isfinite().all()
    assert not y[1, 4:].any()


@pytest.mark.usefixtures("toy")
@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")
@pytest.mark.parametrize(
    ("name", "reverse"),
    [("conv", False), ("selective", False), ("softmax decaying", False), ("softmax", True)],
)
def test_nothing_crosses_a_reset(name: str, reverse: bool) -> None:
    kept_apart(RUNS[name], drawn_for(name, Case(9, 2, batch=1), torch.float32), 5, reverse)


def test_a_plan_covers_every_step() -> None:
    convs, selectives, softmaxes = (
        import_module(f"recurra.ops.kernels.{name}") for name in ("convs", "selectives", "softmaxes")
    )
    for batch, time, width in [(1, 1, 1), (1, 65536, 256), (64, 5000, 3), (3, 257, 100), (1, 3 * 10**7, 1)]:
        rows, _, chunk = convs.plan(batch, time, width)
        assert chunk % rows == 0
        assert -(-time // chunk) < 2**16
        run, _, chunk = selectives.plan(batch, time, width)
        assert chunk % native.CHUNK == native.CHUNK % run == 0
        p = softmaxes.plan(batch, time, 4, width)
        assert p.chunk % p.run == 0
