"""A quantized matrix is near the one it was made of; its products are those of what it stands for."""

import copy
import pickle

import pytest
import torch
from torch import Tensor
from torch.nn.functional import linear

from recurra import ops
from recurra.ops import Quantized, native
from recurra.ops.quantized import QUANTIZED
from recurrences import NATIVE
from tools import close

kinds = pytest.mark.parametrize("kind", QUANTIZED)
SHAPES = [(1, 1), (5, 4), (3, 63), (3, 64), (2, 65), (2, 3, 17, 130), (4, 384)]


@kinds
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_every_number_is_the_nearest_one(shape: tuple[int, ...], kind: str) -> None:
    weight = torch.randn(shape)
    weight[..., 0, :] = 0
    made = Quantized.of(weight, kind)
    assert (made.shape, made.ndim, len(made), made.numel()) == (
        weight.shape,
        len(shape),
        shape[0],
        weight.numel(),
    )
    got = made.wide()
    assert (got.shape, got.dtype, made.dtype) == (weight.shape, torch.float32, torch.float32)
    if kind == "bf16":
        assert got.equal(weight.bfloat16().float())
        return
    step = weight.abs().amax(-1, keepdim=True) / 127
    assert ((got - weight).abs() <= 0.5001 * step).all()
    assert got.abs().amax(-1).allclose(weight.abs().amax(-1))
    assert (got / step.clamp(min=1e-30)).round().abs().max() <= 127


def test_rows_of_any_size() -> None:
    sizes = torch.tensor([0.0, 1e-45, 2.5e-43, 1e-38, 1e38])[:, None]
    for n in Quantized.of(torch.tensor([-1.0, 0.7, 1.0]) * sizes, "int8").wide():
        assert n.isfinite().all()
        assert n[0] <= 0 <= n[2]


@kinds
def test_parts_of_it(kind: str) -> None:
    weight = torch.randn(6, 2, 5, 70)
    made = Quantized.of(weight, kind)
    assert [tuple(x.shape) for x in made.split(4)] == [(4, 2, 5, 70), (2, 2, 5, 70)]
    whole = made.wide()
    assert torch.cat([part.wide() for part in made.split(4)]).equal(whole)
    assert made[3].wide().equal(whole[3])
    assert made[None].wide().equal(whole[None])
    for how in (copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))):
        assert how(made).wide().equal(whole)


@NATIVE
@kinds
@pytest.mark.parametrize("width", [1, 3, 63, 64, 65, 96, 130, 384])
def test_few_rows(level: str, width: int, kind: str) -> None:
    weight = Quantized.of(torch.randn(33, width), kind)
    for rows in range(1, 17):
        x, bias, added = torch.randn(rows, width), torch.randn(33), torch.randn(rows, 33)
        want = linear(x.double(), weight.wide().double(), bias.double())
        close(native.matvec(x, weight, bias), want)
        close(native.matvec(x, weight, bias, added), want + added)
        close(native.matvec(x, weight, None), want - bias)


@NATIVE
@kinds
def test_blocks(level: str, kind: str) -> None:
    """xs that are parts of wider rows."""
    weights = [torch.randn(2, 3, 17, 70), torch.randn(1, 3, 17, 70)]
    made = [Quantized.of(w, kind) for w in weights]
    for rows in (1, 3, 16, 17):
        xs = [torch.randn(rows, 2, 210)[:, 0] for _ in weights]
        with torch.no_grad():
            got = ops.block_product(xs, made)
        close(got, ops.block_product([x.double() for x in xs], [w.wide().double() for w in made]))


@kinds
@pytest.mark.parametrize("at", [(), (1,), (16,), (2, 8), (17,), (4, 9), (0,), (2, 0)], ids=str)
def test_the_matrix_it_stands_for(at: tuple[int, ...], kind: str) -> None:
    x, bias, added = torch.randn(*at, 130, requires_grad=True), torch.randn(67), torch.randn(*at, 67)
    made = Quantized.of(torch.randn(67, 130), kind)
    want = linear(x.double(), made.wide().double(), bias.double()) + added
    got = ops.project(x, made, bias, added)
    close(got, want)
    (dx,) = torch.autograd.grad(got.sum(), x)
    close(dx, made.wide().double().sum(0).expand_as(x))
    with torch.no_grad():
        close(ops.project(x, made, bias, added), want)
        close(ops.project(_strided(x), made, bias, added), want)


def _strided(x: Tensor) -> Tensor:
    return torch.stack([x, x], -1)[..., 0]


@NATIVE
@torch.no_grad()
@kinds
def test_few_rows_take_the_kernel(kind: str) -> None:
    made = Quantized.of(torch.eye(3), kind)
    with native.Tape():
        ops.project(torch.empty(2, 3), made)


@kinds
def test_refused(kind: str) -> None:
    with pytest.raises(ValueError, match="must be finite"):
        Quantized.of(torch.tensor([[1.0, float("inf")]]), kind)
    made = Quantized.of(torch.eye(3), kind)
    with pytest.raises(ValueError, match="the last axis of x must be the second of weight"):
        ops.project(torch.empty(2, 4), made)
    with pytest.raises(RuntimeError, match="not saved"):
        made.state_dict()
