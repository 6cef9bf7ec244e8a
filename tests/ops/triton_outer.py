"""The laws of the matrix memory that `test_triton.py` runs in Triton's interpreter."""

from collections.abc import Iterable
from typing import Any

import pytest
import torch
from torch import Tensor

from outers import MODES, called, draw, meets, results
from recurra.ops import kernels, native
from recurra.ops.outer_forms import Inputs
from recurrences import LAYOUTS, kept_apart
from recurrences import Drawn as Steps

# The parts of the last state, and the gradients of those of the first.
LAST, FIRST = ("c_n", "n_n", "max_n"), ("dc", "dn", "dmax")
FP32, BF16, FP16 = torch.float32, torch.bfloat16, torch.float16
# Every mode with every kind of masks and decays, one chunk and several; sizes: T, H, K, V.
CASES = [
    ("gated", (5, 2, 3, 4), "none", "mixed", FP32),
    ("gated", (18, 1, 17, 5), "both", "forget all", FP32),
    ("gated", (33, 1, 2, 17), "reset", "slowly", FP32),
    ("gated", (17, 1, 3, 2), "lengths", "mixed", FP16),
    ("gated", (2, 1, 3, 2), "all true", "mixed", FP32),
    ("gated", (3, 1, 3, 2), "all false", "mixed", BF16),
    ("of heads", (18, 1, 17, 18), "both", "forget all", FP32),
    ("of heads", (17, 1, 3, 2), "none", "forget nothing", BF16),
    ("of keys", (18, 2, 3, 2), "both", "mixed", FP32),
    ("of keys", (17, 1, 17, 2), "none", "forget all", FP32),
    ("bonus", (18, 1, 17, 18), "both", "forget all", FP32),
    ("bonus", (5, 2, 3, 2), "none", "slowly", FP16),
    ("bonus of heads", (18, 1, 3, 2), "both", "mixed", FP32),
    ("bonus of heads", (17, 1, 17, 2), "reset", "forget all", FP32),
]


@pytest.fixture(autouse=True)
def triton(monkeypatch: pytest.MonkeyPatch) -> None:
    """The op of CPU tensors on these kernels, with the smallest tiles there are."""
    from recurra.ops.kernels import outers  # noqa: PLC0415

    monkeypatch.setattr(outers, "plan", lambda *_: outers.Plan(16, 16, 16, 1))
    monkeypatch.setattr(native, "takes", lambda *xs: xs[0].dtype in kernels.DTYPES)
    for name in ("outer", "outer_backward"):
        monkeypatch.setattr(native, name, getattr(kernels, name))


@pytest.mark.parametrize(("mode", "size", "masks", "kind", "dtype"), CASES)
def test_fp64_loop(mode: str, size: tuple[int, ...], masks: str, kind: str, dtype: torch.dtype) -> None:
    meets(called, draw(mode, size, masks, kind, dtype))


@pytest.mark.parametrize("layout", ["time first", "channels first"])
def test_strides(layout: str) -> None:
    def laid(x: Tensor) -> Tensor:
        flat = LAYOUTS[layout](x.flatten(2))
        return flat.unflatten(2, x.shape[2:]) if x.ndim > 3 else flat

    drawn = draw("gated", (3, 2, 3, 2), "both", "mixed", FP32)
    names = [name for name in Inputs._fields if name in drawn.tensors]
    cotangents = (laid(drawn.cotangents[0]), *drawn.cotangents[1:])
    tensors = drawn.tensors | {name: laid(drawn.tensors[name]) for name in names}
    meets(called, drawn._replace(tensors=tensors, cotangents=cotangents))


@pytest.mark.parametrize("mode", ["gated", "bonus"])
def test_no_steps(mode: str) -> None:
    meets(called, draw(mode, (0, 2, 3, 4), "both", "mixed", FP32))


@pytest.mark.parametrize("mode", MODES)
def test_nothing_crosses_a_reset(mode: str) -> None:
    drawn = draw(mode, (18, 1, 3, 2), "none", "mixed", FP32)
    names, states = [n for n in Inputs._fields if n in drawn.tensors], ("c", "n", "max")
    shapes = [drawn.tensors[name].shape for name in states]

    def packed(parts: Iterable[Tensor]) -> Tensor:
        return torch.cat([x.flatten(1) for x in parts], 1)

    def unpacked(x: Tensor) -> list[Tensor]:
        parts = x.split([shape[1:].numel() for shape in shapes], 1)
        return [part.reshape(shape) for part, shape in zip(parts, shapes, strict=True)]

    def run(steps: Steps, reverse: bool) -> list[Tensor]:
        given = zip((*names, *states), (*steps.xs, *unpacked(steps.h_0)), strict=True)
        cotangents, masks = (steps.dy, *unpacked(steps.dh_n)), (steps.reset, None)
        laid = drawn._replace(tensors=drawn.tensors | dict(given), masks=masks, cotangents=cotangents)
        got = results(called, laid)
        last, first = ([got[k] for k in got if k in keys] for keys in (LAST, FIRST))
        return [got["y"], packed(last), *(got[f"d{name}"] for name in names), packed(first)]

    dy, *ends = drawn.cotangents
    xs, first = (tuple(drawn.tensors[name] for name in group) for group in (names, states))
    kept_apart(run, Steps(xs, packed(first), None, None, dy, packed(ends)), 17, False)


def test_padding_is_not_read() -> None:
    at: dict[str, Any] = draw("gated", (4, 1, 3, 2), "none", "mixed", FP32).tensors
    given, lengths = [at[name].clone() for name in Inputs._fields], torch.tensor([4, 2])
    for x in given:
        x[1, 2:] = torch.nan
    y, last, _ = kernels.outer(
        tuple(given[:4]), given[4], None, (at["c"], at["n"], at["max"]), (None, lengths), 1.0, False
    )
    assert all(x.isfinite().all() for x in last)
    assert not y[1, 2:].any()
