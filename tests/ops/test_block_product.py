"""Products with blocks along a diagonal are products with that whole matrix."""

import pytest
import torch
from torch import Tensor
from torch.autograd import gradcheck, gradgradcheck

from recurra import ops
from recurra.ops import native
from recurrences import NATIVE
from tools import close

# Of each x: parts, blocks, outputs and inputs.
SIZES = [
    [(1, 1, 1, 1)],
    [(2, 5, 4, 4), (1, 5, 4, 4)],
    [(2, 3, 17, 17), (2, 3, 17, 17)],
    [(1, 4, 12, 3), (3, 4, 12, 3)],
    [(3, 2, 5, 70)],
    [(1, 96, 4, 4)],
]
FEW, MANY = [(), (1,), (3,), (16,), (2, 3)], [(17,), (4, 9), (0,), (2, 0)]


def _drawn(
    sizes: list[tuple[int, ...]], at: tuple[int, ...], dtype: torch.dtype
) -> tuple[list[Tensor], list[Tensor]]:
    """xs that are parts of wider rows, and weights."""
    xs = [torch.randn(*at, 3, n * i).to(dtype)[..., 1, :] for _, n, _, i in sizes]
    return xs, [torch.randn(size).to(dtype) for size in sizes]


def _truth(xs: list[Tensor], weights: list[Tensor]) -> Tensor:
    wholes = [
        (x.double(), torch.block_diag(*part.double())) for x, w in zip(xs, weights, strict=True) for part in w
    ]
    return torch.cat([x @ whole.T for x, whole in wholes], -1)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("at", [*FEW, *MANY], ids=str)
@pytest.mark.parametrize("sizes", SIZES, ids=str)
def test_the_whole_matrix(sizes: list[tuple[int, ...]], at: tuple[int, ...], dtype: torch.dtype) -> None:
    xs, weights = _drawn(sizes, at, dtype)
    want = _truth(xs, weights)
    for gradients in (True, False):
        with torch.set_grad_enabled(gradients):
            got = ops.block_product(xs, weights)
        assert got.dtype == dtype
        close(got, want)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("sizes", SIZES, ids=str)
def test_gradients(sizes: list[tuple[int, ...]], dtype: torch.dtype) -> None:
    xs, weights = _drawn(sizes, (3, 25), dtype)
    leaves = [x.requires_grad_() for x in (*xs, *weights)]
    wide = [x.detach().double().requires_grad_() for x in leaves]
    y = ops.block_product(xs, weights)
    dy = torch.randn(y.shape).to(dtype)
    want = torch.autograd.grad(_truth(wide[: len(xs)], wide[len(xs) :]), wide, dy.double())
    for got, expected in zip(torch.autograd.grad(y, leaves, dy), want, strict=True):
        close(got, expected)


@NATIVE
@torch.no_grad()
@pytest.mark.parametrize("at", FEW, ids=str)
def test_few_rows_take_the_kernel(at: tuple[int, ...]) -> None:
    xs, weights = _drawn(SIZES[1], at, torch.float32)
    with native.Tape():
        ops.block_product(xs, weights)


@pytest.mark.parametrize("sizes", SIZES[1:5], ids=str)
def test_gradcheck(sizes: list[tuple[int, ...]]) -> None:
    xs, weights = _drawn([(p, n, min(o, 3), min(i, 3)) for p, n, o, i in sizes], (2,), torch.float64)
    leaves = tuple(x.detach().requires_grad_() for x in (*xs, *weights))

    def f(*given: Tensor) -> Tensor:
        return ops.block_product(given[: len(xs)], given[len(xs) :])

    assert gradcheck(f, leaves, check_forward_ad=True)
    assert gradgradcheck(f, leaves)


def test_errors_name_the_argument() -> None:
    x, w = torch.randn(2, 6), torch.randn(1, 3, 4, 2)
    for xs, weights, said in (
        ((), (), "weights must be as many as xs, got 0 and 0"),
        ((x, x), (w,), "weights must be as many as xs, got 1 and 2"),
        ((x,), (w[0],), r"weights must be \[parts, blocks, outputs, inputs > 0\], got \[3, 4, 2\]"),
        ((x,), (w[..., :0],), r"weights must be \[parts, blocks"),
        ((x, x), (w, w[:, 1:]), r"weights must be \[parts\] and \[3, 4, 2\] .*, got \[1, 2, 4, 2\]"),
        ((x,), (w.to("meta"),), r"weights must be .* on cpu, .*, got \[1, 3, 4, 2\] on meta"),
        ((x[:, 1:],), (w,), r"xs must be \[..., 6\] on cpu, all alike, got \[2, 5\]"),
        ((x, x[:1]), (w, w), r"xs must be \[..., 6\] .*, got \[1, 6\]"),
    ):
        with pytest.raises(ValueError, match=said):
            ops.block_product(xs, weights)
