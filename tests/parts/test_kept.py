"""What is kept of parameters is theirs at every moment, and is made no more often than they change."""

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from recurra.ops import native
from recurra.parts.kept import Kept


class Doubled(nn.Module):
    """Twice its parameter, and how often that was computed."""

    def __init__(self) -> None:
        super().__init__()
        self.p, self.kept, self.made = nn.Parameter(torch.randn(3)), Kept(), 0

    def forward(self) -> Tensor:
        return self.kept(self._make, self.p)

    def _make(self) -> Tensor:
        self.made += 1
        return 2 * self.p


def _written(module: Doubled) -> None:
    module.p.add_(1)


def _moved(module: Doubled) -> None:
    module.p.data = module.p + 1


def _replaced(module: Doubled) -> None:
    module.p = nn.Parameter(torch.randn(3))


@torch.no_grad()
@pytest.mark.parametrize("change", [_written, _moved, _replaced])
def test_it_follows_its_parameters(change: Callable[[Doubled], object]) -> None:
    module = Doubled()
    for made in (1, 2, 3):
        assert all(module().equal(2 * module.p) for _ in range(3))
        assert module.made == made
        change(module)


@torch.no_grad()
def test_it_follows_their_dtype() -> None:
    module = Doubled()
    module()
    assert module.double()().dtype == torch.float64


def test_gradients_flow() -> None:
    module = Doubled()
    with torch.no_grad():
        module()
    module().sum().backward()
    assert module.p.grad is not None
    assert module.p.grad.eq(2).all()


@torch.no_grad()
def test_a_copy_follows_its_own() -> None:
    module = Doubled()
    module()
    other = copy.deepcopy(module)
    assert other().equal(module())
    assert other.made == 2  # nothing is carried over: addresses may be given anew
    other.p.mul_(3)
    assert other().equal(2 * other.p)
    assert module().equal(2 * module.p)


def test_parameters_of_inference_mode() -> None:
    with torch.inference_mode():
        module = Doubled()
        module()
        module.p.mul_(3)
        assert module().equal(2 * module.p)


@torch.no_grad()
def test_on_a_tape_it_is_a_constant() -> None:
    module = Doubled()
    with native.Tape() as tape:
        value = module()
    assert value.equal(2 * module.p)
    assert not tape.stale
    module()
    assert not tape.stale
    _written(module)
    module()
    assert tape.stale
    with pytest.raises(native.NotRecordableError), native.Tape():
        module._make()
    assert not native.recording()


@torch.no_grad()
def test_an_error_leaves_the_tape_as_it_was() -> None:
    def fail() -> Tensor:
        raise ZeroDivisionError

    x = torch.ones(1)
    with native.Tape():
        with pytest.raises(ZeroDivisionError):
            Kept()(fail, x)
        assert native.recording()
        with pytest.raises(native.NotRecordableError):
            x + 1
