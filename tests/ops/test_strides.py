"""Any shape, any strides, any dtype: hypothesis looks for a case in which a form misses the loop."""

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from recurrences import (
    KINDS,
    LAYOUTS,
    MASKS,
    NATIVE,
    ROWS,
    Case,
    Drawn,
    allowed,
    compiled,
    draw,
    plain,
    results,
    truth,
)
from tools import close

CASES = st.builds(
    Case,
    time=st.integers(0, 20),
    width=st.integers(1, 70),
    masks=st.sampled_from(MASKS),
    reverse=st.booleans(),
    kind=st.sampled_from(list(KINDS)),
    batch=st.integers(0, 4),
)
ANY_LAYOUT = st.sampled_from(list(LAYOUTS))


@pytest.mark.parametrize("form", [plain, pytest.param(compiled, marks=NATIVE)])
@settings(max_examples=500)
@given(st.sampled_from(list(ROWS)), CASES, st.data())
def test_strided_inputs(form: Any, name: str, case: Case, data: st.DataObject) -> None:
    row = ROWS[name]
    drawn = draw(row, case, data.draw(st.sampled_from(row.dtypes)))

    def lay_out(x: Tensor) -> Tensor:
        return x if x.ndim < 3 else LAYOUTS[data.draw(ANY_LAYOUT)](x)

    drawn = drawn._replace(xs=tuple(lay_out(x) for x in drawn.xs), dy=lay_out(drawn.dy))
    drawn = drawn._replace(h_0=lay_out(drawn.h_0[:, None])[:, 0], dh_n=lay_out(drawn.dh_n[:, None])[:, 0])
    want = truth(row, drawn, case.reverse)
    for key, x in results(form, row, drawn, case.reverse).items():
        # A single number may be a difference of larger ones; a wrong stride is wrong by its whole size.
        close(x, want[key], 16 * allowed(key, x.dtype))


@pytest.mark.parametrize("form", [plain, pytest.param(compiled, marks=NATIVE)])
@settings(max_examples=100)
@given(st.lists(st.integers(0, 4), max_size=3), st.permutations(range(4)), st.booleans())
def test_linear_takes_any_number_of_axes(form: Any, rest: list[int], order: list[int], reverse: bool) -> None:
    torch.manual_seed(0)
    x = torch.randn(3, 5, *rest)
    if x.ndim == 4:
        x = x.permute(order).contiguous().permute([order.index(i) for i in range(4)])
    h_0 = torch.randn(3, *rest)
    drawn = Drawn(
        (x.tanh(), x), h_0, None, torch.tensor([5, 2, 0]), torch.randn_like(x), torch.randn_like(h_0)
    )
    want = truth(ROWS["linear"], drawn, reverse)
    for key, got in results(form, ROWS["linear"], drawn, reverse).items():
        close(got, want[key])


@pytest.mark.parametrize("form", [plain, pytest.param(compiled, marks=NATIVE)])
def test_linear_broadcasts(form: Any) -> None:
    a, b, h_0 = torch.rand(4, 1, requires_grad=True), torch.randn(2, 3, 4, 1), torch.randn(2, 4, 5)
    y, _ = form(ROWS["linear"], (a, b.expand(2, 3, 4, 5)), h_0, None, None, False)
    full, _ = form(ROWS["linear"], (a.expand(2, 3, 4, 5), b.expand(2, 3, 4, 5)), h_0, None, None, False)
    close(y, full.double())
    y.sum().backward()
    assert a.grad is not None
    assert a.grad.shape == a.shape


def test_views_that_negate_or_conjugate() -> None:
    z = torch.randn(2, 5, 3, dtype=torch.complex64)
    for b in (z.conj(), z.conj().imag):
        a = torch.full_like(b, 0.5)
        close(ROWS["linear"].call(a, b)[0], ROWS["linear"].call(a, b.clone())[0].to(torch.complex128))
