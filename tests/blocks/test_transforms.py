"""PyTorch's transforms around whole blocks: torch.func, forward mode, second derivatives; and empty axes."""

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.func import functional_call, grad, jacfwd, jacrev, vmap

from recurra.blocks.table import BLOCKS
from tools import close, leaves, masks, wake

BATCH, TIME, WIDTH = 2, 4, 4
# torch warns of a vmap that it does row by row.
pytestmark = pytest.mark.filterwarnings("ignore:There is a performance drop:UserWarning")
every = pytest.mark.parametrize("name", BLOCKS)


def _block(name: str) -> Any:
    row = BLOCKS[name]
    return wake(row.block(row.config(width=WIDTH, **row.fixed))).double()


def _x() -> Tensor:
    return torch.randn(BATCH, TIME, WIDTH, dtype=torch.float64)


@every
def test_forward_mode_is_the_transpose(name: str) -> None:
    """Never a silent zero."""
    block, x = _block(name), _x()
    begin, (reset, lengths) = block(_x())[1], masks(BATCH, TIME, seed=1)

    def f(x: Tensor) -> Tensor:
        return block(x, begin, reset, lengths)[0]

    want = jacrev(f)(x)
    assert want.any()
    close(jacfwd(f)(x), want)


@every
def test_gradient_of_each_sample(name: str) -> None:
    block, x = _block(name), _x()
    parameters = dict(block.named_parameters())

    def loss(p: Any, row: Tensor) -> Tensor:
        return functional_call(block, p, (row[None],))[0].square().sum()

    each = vmap(grad(loss), (None, 0))(parameters, x)
    whole = torch.autograd.grad(block(x)[0].square().sum(), list(parameters.values()))
    for got, want in zip(each.values(), whole, strict=True):
        close(got.sum(0), want)


@every
def test_hessian(name: str) -> None:
    """Backward through the backward pass, against forward through it."""
    block, x = _block(name), _x()[:1].requires_grad_()

    def size(x: Tensor) -> Tensor:
        return block(x)[0].square().sum()

    want = jacfwd(grad(size))(x)
    assert want.any()
    if name != "transformer":  # of whose attention torch has no second backward pass on a CPU
        (first,) = torch.autograd.grad(size(x), x, create_graph=True)
        (got,) = torch.autograd.grad(first, x, seed := torch.randn_like(first))
        close(got, torch.tensordot(seed, want, 3))


@every
@pytest.mark.parametrize(("batch", "time"), [(0, 5), (2, 0), (0, 0)])
def test_empty(name: str, batch: int, time: int) -> None:
    block, x = _block(name), torch.randn(batch, time, WIDTH, dtype=torch.float64, requires_grad=True)
    y, end = block(x, None, *masks(batch, time, seed=0))
    (y.sum() + sum(leaf.abs().sum() for leaf in leaves(end))).backward()
    assert x.grad is not None
    with torch.no_grad():
        for state in (None, end):
            assert block.step(torch.randn(batch, WIDTH).double(), state)[0].shape == (batch, WIDTH)
