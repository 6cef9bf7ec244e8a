"""`project` is torch.nn.functional.linear, whichever product serves."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.autograd import gradcheck, gradgradcheck
from torch.func import grad, jvp, vmap
from torch.nn.functional import linear
from torch.testing._internal.two_tensor import TwoTensor

from recurra import ops
from recurra.ops import native
from recurrences import NATIVE
from tools import close

REAL = (torch.float32, torch.float64, torch.bfloat16)
LEADING = st.one_of(
    st.integers(1, 17).map(lambda n: (n,)),
    st.sampled_from([(), (0,), (1, 1), (2, 9), (3, 0), (4, 33), (2, 3, 5), (300,)]),
)
SIZES = st.sampled_from([1, 2, 3, 15, 16, 17, 31, 33, 64, 65, 130, 513])


def _strided(x: Tensor) -> Tensor:
    """The same matrices in every second column of others."""
    return torch.stack([x, x], -1)[..., 0]


LAYOUTS = {
    "contiguous": Tensor.contiguous,
    "transposed": lambda x: x.mT.contiguous().mT if x.ndim > 1 else x,
    "strided": _strided,
    "one row": lambda x: x[:1].expand_as(x) if x.ndim > 1 and x.shape[0] else x,
    "not aligned": lambda x: torch.cat([x.new_zeros(1), x.flatten()])[1:].view(x.shape),
}


@pytest.fixture(
    params=[
        pytest.param("chosen here", marks=NATIVE),
        pytest.param("our own for fp32", marks=NATIVE),
        pytest.param("torch for many rows", marks=NATIVE),
        "torch",
    ],
    autouse=True,
)
def served_by(request: pytest.FixtureRequest) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        if request.param != "chosen here":
            patch.setattr(native, "prefers_product", lambda: request.param == "our own for fp32")
        if request.param == "torch":
            patch.setattr(native, "takes", lambda *_: False)
        yield


def _linear(x: Tensor, weight: Tensor, bias: Tensor | None, added: Tensor | None) -> Tensor:
    y = linear(x, weight, bias)
    return y if added is None else y + added


def _all(f: Any, *inputs: Tensor | None) -> list[Tensor]:
    """y, the gradients of all inputs, and those of a function of these."""
    leaves = [x for x in inputs if x is not None]
    y = f(*inputs)
    first = torch.autograd.grad(y, leaves, y.detach() + 1, create_graph=True, materialize_grads=True)
    size = sum(g.square().sum() for g in first)
    second = torch.autograd.grad(size, leaves, materialize_grads=True)
    return [y, *first, *second]


@settings(max_examples=120)
@given(
    LEADING,
    SIZES,
    SIZES,
    st.sampled_from(["", "bias", "added", "bias and added"]),
    st.sampled_from(REAL),
    st.data(),
    st.sampled_from(list(LAYOUTS)),
)
def test_linear(
    leading: tuple[int, ...],
    width: int,
    out: int,
    more: str,
    dtype: torch.dtype,
    data: st.DataObject,
    layout: str,
) -> None:
    other = data.draw(st.sampled_from(list(LAYOUTS)))
    torch.manual_seed(0)  # all positive: a product of one number with another must not cancel out
    x = LAYOUTS[layout](torch.rand(*leading, width).to(dtype)).requires_grad_()
    weight = LAYOUTS[other](torch.rand(out, width).to(dtype)).requires_grad_()
    bias = _strided(torch.rand(out).to(dtype)).requires_grad_() if "bias" in more else None
    added = torch.rand(*leading, out).to(dtype)
    added = LAYOUTS[layout](added).requires_grad_() if "added" in more else None
    inputs = (x, weight, bias, added)
    y = ops.project(*inputs)
    assert y.shape == (*leading, out)
    assert y.dtype == dtype
    with torch.no_grad():
        close(ops.project(*inputs), y)
    wide = [None if v is None else v.detach().double().requires_grad_() for v in inputs]
    # Second derivatives are products of products: a bf16 one keeps what every product before it rounded.
    eps = 16 if dtype == torch.bfloat16 else None
    for got, want in zip(_all(ops.project, *inputs), _all(_linear, *wide), strict=True):
        close(got, want, eps)


@pytest.mark.parametrize("rows", range(1, 18))
@pytest.mark.parametrize("dtype", REAL)
def test_few_rows(dtype: torch.dtype, rows: int) -> None:
    x, weight, bias = torch.randn(rows, 131), torch.randn(67, 131), torch.randn(67)
    x, weight, bias = x.to(dtype), weight.to(dtype), bias.to(dtype)
    close(ops.project(x, weight, bias), linear(x.double(), weight.double(), bias.double()))


@pytest.mark.parametrize("shape", [(1, 4), (3, 4), (20, 4)])
def test_gradcheck(shape: tuple[int, int]) -> None:
    x, weight, bias = (torch.randn(s, dtype=torch.float64, requires_grad=True) for s in (shape, (3, 4), 3))
    assert gradcheck(ops.project, (x, weight, bias), check_forward_ad=True)
    assert gradgradcheck(ops.project, (x, weight, bias), check_fwd_over_rev=True)


def test_func() -> None:
    x, weights = torch.randn(2, 5), torch.randn(4, 3, 5)

    def size(product: Any) -> Any:
        return lambda w: product(x, w).pow(3).sum()

    close(vmap(grad(size(ops.project)))(weights), vmap(grad(size(linear)))(weights))
    got, want = (jvp(lambda w, f=f: f(x, w), (weights[0],), (weights[1],)) for f in (ops.project, linear))
    close(got[1], want[1])


def test_non_finite_weights_stay_in_their_rows() -> None:
    x, weight = torch.randn(2, 33), torch.randn(17, 33)
    weight[3], weight[5, 32] = float("inf"), float("nan")
    y = ops.project(x, weight)
    fine = [i for i in range(17) if i not in (3, 5)]
    assert not y[:, 3].isfinite().any()
    assert y[:, 5].isnan().all()
    close(y[:, fine], linear(x, weight[fine]).double())


def test_mixed_dtypes_are_refused() -> None:
    with pytest.raises((RuntimeError, ValueError), match="dtype"):
        ops.project(torch.randn(2, 3), torch.randn(4, 3).double())


@pytest.mark.parametrize("gradients", [True, False])
def test_what_the_kernels_do_not_know_is_left_to_torch(gradients: bool) -> None:
    """Complex numbers, and a subclass of Tensor that looks at what is done with it."""
    x, weight = torch.randn(2, 128, dtype=torch.complex64), torch.randn(128, 128, dtype=torch.complex64)
    bias = TwoTensor(torch.ones(128), torch.zeros(128))
    with torch.set_grad_enabled(gradients):
        close(ops.project(x, weight), linear(x, weight))
        y = ops.project(x.real.contiguous(), weight.real.contiguous(), bias)
    assert type(y) is TwoTensor
