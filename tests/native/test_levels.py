"""Every instruction set gives the same numbers; the environment chooses downwards, or none at all."""

import warnings
from collections.abc import Iterator

import pytest
import torch
from torch.nn import functional as F

from ops.recurrences import NATIVE, ROWS, Case, allowed, compiled, drawn_truth, pairings, results
from recurra import ops
from recurra.ops import native
from recurra.ops.attention import step_native, step_open
from recurra.ops.cross_attention import cross_attention
from recurra.ops.native import library
from recurra.state import KVState, SelectiveState
from tools import close

REAL = (torch.float32, torch.float64, torch.bfloat16)


@NATIVE
@pytest.mark.parametrize("name", ROWS)
def test_recurrences(level: str, name: str) -> None:
    for i, case in enumerate(pairings(len(name))):
        for dtype in ROWS[name].dtypes:
            if (case.time, i % 3) in ((7, 0), (65, 1), (2, 2)):
                drawn, want = drawn_truth(name, case, dtype)
                for key, x in results(compiled, ROWS[name], drawn, case.reverse).items():
                    close(x, want[key], allowed(key, x.dtype))
    assert native.level() == level


@NATIVE
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_ends_of_a_decay(level: str, dtype: torch.dtype) -> None:
    """exp(delta A) is 1 where A is zero, of either sign, and 0 below the normal numbers; NaN stays NaN."""
    A = torch.tensor([0.0, -0.0, -1e-42, -1e-3, -0.1, -60.0, -1e30, 1e30, torch.nan], dtype=dtype)
    width = len(A)
    zero, one = torch.zeros(1, 1, width, dtype=dtype), torch.ones(1, 1, 1, dtype=dtype)
    state = SelectiveState(torch.ones(1, 1, width, dtype=dtype))
    y, _ = ops.selective(zero, zero + 20, A[:, None], one, one, zero[0, 0], zero[0, 0], None, state)
    close(y[0, 0, :-2], (F.softplus(zero[0, 0].double() + 20) * A.double()).exp()[:-2])
    assert y[0, 0, -2] > 1e37
    assert y[0, 0, -1].isnan()


@NATIVE
@pytest.mark.parametrize("dtype", REAL)
@pytest.mark.parametrize("width", [1, 3, 16, 17, 64, 65, 130])
def test_products(level: str, width: int, dtype: torch.dtype) -> None:
    for rows in (1, 3, 4, 5, 16):
        x, weight, bias = (torch.randn(s).to(dtype) for s in ((rows, width), (33, width), (33,)))
        close(native.matvec(x, weight, bias), F.linear(x.double(), weight.double(), bias.double()))
    if dtype == torch.float32:
        for x in (torch.randn(41, width), torch.randn(width, 41).t()):
            for weight in (torch.randn(67, width), torch.randn(width, 67).t(), torch.randn(1100, width)):
                close(native.product(x, weight, None), F.linear(x.double(), weight.double()))


@NATIVE
@pytest.mark.parametrize("dtype", REAL)
@pytest.mark.parametrize("width", [1, 17, 64, 130])
def test_convolutions(level: str, width: int, dtype: torch.dtype) -> None:
    x, weight = torch.randn(2, 33, width).to(dtype), torch.randn(width, 4).to(dtype)
    y, _ = ops.causal_conv(x, weight)
    wide = F.pad(x.double().mT, (3, 0))
    close(y, F.conv1d(wide, weight.double()[:, None], groups=width).mT)


@NATIVE
@pytest.mark.parametrize("dtype", REAL)
@pytest.mark.parametrize("channels", [2, 64, 70])
def test_a_step_of_attention(level: str, channels: int, dtype: torch.dtype) -> None:
    qkv, position = torch.randn(2, 3, 3, channels).to(dtype), torch.tensor([20, 7])
    entries = [torch.randn(2, 3, count, channels).to(dtype) for count in (17, 17, 3, 3)]
    wide = KVState(*(x.double() for x in entries), position)
    want, _ = step_open(qkv.double(), wide, 9, 10000.0)
    close(step_native(qkv, KVState(*entries, position), 9, 10000.0)[0], want)


@NATIVE
@pytest.mark.parametrize("dtype", REAL)
@pytest.mark.parametrize("channels", [1, 64, 70])
def test_a_step_of_cross_attention(level: str, channels: int, dtype: torch.dtype) -> None:
    q, memory = torch.randn(2, 3, 3, channels).to(dtype), torch.randn(2, 2, 3, 19, channels).to(dtype)
    lengths = torch.tensor([19, 6])
    k, v = memory.double().transpose(2, 3).unbind(1)
    close(native.cross_attention(q, memory, lengths), cross_attention(q.double(), k, v, lengths))


# ----------------------------------------------------------------------------------------------
# RECURRA_ISA


@pytest.fixture
def fresh(monkeypatch: pytest.MonkeyPatch) -> Iterator[pytest.MonkeyPatch]:
    """The library as if nothing had been loaded yet."""

    def forget() -> None:
        library.find.cache_clear()
        library._loaded.cache_clear()

    forget()
    yield monkeypatch
    monkeypatch.undo()
    forget()
    library.find()


@NATIVE
@pytest.mark.parametrize("level", native.LEVELS)
def test_the_environment_chooses(fresh: pytest.MonkeyPatch, level: str) -> None:
    best = native.level()
    fresh.setenv("RECURRA_ISA", level)
    library.find.cache_clear()
    assert native.level() == min(level, best, key=native.LEVELS.index)


def test_an_unknown_level_is_an_error(fresh: pytest.MonkeyPatch) -> None:
    fresh.setenv("RECURRA_ISA", "avx2")
    with pytest.raises(ValueError, match=r"RECURRA_ISA must be none or one of portable, .*'avx2'"):
        ops.mingru(torch.randn(1, 2, 4))


def _without_kernels() -> None:
    """The plain form, and one warning, however often one calls."""
    x = torch.randn(2, 9, 8)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for _ in range(2):
            y, _ = ops.mingru(x)
            ops.linear(x.sigmoid(), x)
            ops.project(x[:, 0], x[0])
            ops.causal_conv(x, torch.ones(8, 3))
    assert [str(w.message).split(":")[0] for w in caught] == [
        "recurra runs without its native kernels, in plain torch"
    ]
    assert native.level().startswith("none (")
    with pytest.raises(RuntimeError, match="no native kernels"):
        native.select("portable")
    drawn, want = drawn_truth("mingru positive", Case(7, 17, "both"), torch.float32)
    got, _ = ops.mingru(drawn.xs[0], (drawn.h_0,), drawn.reset, drawn.lengths)  # type: ignore[arg-type]
    close(got, want["y"])
    assert y.shape == (2, 9, 4)


def test_no_kernels_by_choice(fresh: pytest.MonkeyPatch) -> None:
    fresh.setenv("RECURRA_ISA", "none")
    _without_kernels()


def test_no_kernels_at_all(fresh: pytest.MonkeyPatch) -> None:
    fresh.delenv("RECURRA_ISA", raising=False)
    fresh.setattr("importlib.util.find_spec", lambda *_: None)
    _without_kernels()
