"""The chunked loss is the plain one: value, gradients, ignored targets, precision, memory."""

import weakref
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from recurra.models import cross_entropy as module
from recurra.models.cross_entropy import IGNORED, linear_cross_entropy
from tools import close

WIDTH, VOCABULARY = 6, 11
# Rows: none, one, less than a chunk, exactly one, several and a rest.
SIZES = (0, 1, 7, 8, 29)
# Rows of a chunk where no test makes them fewer.
CHUNK = module._rows


@pytest.fixture(autouse=True)
def _small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_rows", lambda weight: 8)


def _draw(rows: int, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor, Tensor]:
    x = torch.randn(rows, WIDTH, dtype=dtype, requires_grad=True)
    weight = torch.randn(VOCABULARY, WIDTH, dtype=dtype, requires_grad=True)
    targets = torch.randint(VOCABULARY, (rows,))
    targets[::3] = IGNORED
    return x, weight, targets


def _plain(x: Tensor, weight: Tensor, targets: Tensor, cap: float = 0.0, smoothing: float = 0.0) -> Tensor:
    logits = x @ weight.t()
    logits = cap * torch.tanh(logits / cap) if cap else logits
    return cross_entropy(logits, targets, reduction="sum", label_smoothing=smoothing)


@pytest.mark.parametrize("choice", [(0.0, 0.0), (2.0, 0.0), (0.0, 0.1), (2.0, 0.3)])
@pytest.mark.parametrize("rows", SIZES)
def test_equals_plain(rows: int, choice: tuple[float, float]) -> None:
    x, weight, targets = _draw(rows)
    ours, theirs = linear_cross_entropy(x, weight, targets, *choice), _plain(x, weight, targets, *choice)
    close(ours, theirs)
    for mine, other in zip(
        torch.autograd.grad(3 * ours, (x, weight)), torch.autograd.grad(3 * theirs, (x, weight)), strict=True
    ):
        close(mine, other)
    with torch.no_grad():
        close(linear_cross_entropy(x, weight, targets, *choice), theirs)


def test_gradient_for_the_input_or_the_weight_alone() -> None:
    x, weight, targets = _draw(29)
    dx, dweight = torch.autograd.grad(_plain(x, weight, targets), (x, weight))
    close(torch.autograd.grad(linear_cross_entropy(x, weight.detach(), targets), x)[0], dx)
    close(torch.autograd.grad(linear_cross_entropy(x.detach(), weight, targets), weight)[0], dweight)


def test_extreme_logits() -> None:
    x, weight, targets = _draw(29)
    ours, theirs = (f(1e4 * x, weight, targets) for f in (linear_cross_entropy, _plain))
    close(ours, theirs)
    close(torch.autograd.grad(ours, x)[0], torch.autograd.grad(theirs, x)[0])


def test_all_ignored() -> None:
    x, weight, targets = _draw(29)
    loss = linear_cross_entropy(x, weight, torch.full_like(targets, IGNORED))
    loss.backward()
    assert loss == 0
    assert not x.grad.any()
    assert not weight.grad.any()


@pytest.mark.parametrize("target", [VOCABULARY, -1])
def test_a_target_out_of_range(target: int) -> None:
    x, weight, targets = _draw(7)
    targets[3] = target
    with pytest.raises((RuntimeError, IndexError), match=f"{target}"):
        linear_cross_entropy(x, weight, targets)


def test_bf16_and_autocast() -> None:
    x, weight, targets = _draw(29, torch.float32)
    want = _plain(x, weight, targets)
    grads = torch.autograd.grad(want, (x, weight))
    bound = 4 * torch.finfo(torch.bfloat16).eps / torch.finfo(torch.float32).eps
    with torch.autocast("cpu", torch.bfloat16):
        loss = linear_cross_entropy(x, weight, targets)
    close(loss, want, bound)
    for mine, other in zip(torch.autograd.grad(loss, (x, weight)), grads, strict=True):
        close(mine, other, bound)
    loss = linear_cross_entropy(x.bfloat16(), weight.bfloat16(), targets)
    assert loss.dtype == torch.float32
    close(loss, want, bound)
    for mine, other in zip(torch.autograd.grad(loss, (x, weight)), grads, strict=True):
        close(mine, other, bound)


# Dynamo itself warns so while it traces an autograd.Function.
@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")
def test_under_transforms_and_compile() -> None:
    x, weight, targets = _draw(29)
    dx = torch.autograd.grad(_plain(x, weight, targets), x)[0]
    close(torch.func.grad(linear_cross_entropy)(x.detach(), weight.detach(), targets), dx)
    torch._dynamo.reset()
    compiled = torch.compile(linear_cross_entropy, backend="aot_eager", fullgraph=True)
    close(torch.autograd.grad(compiled(x, weight, targets), x)[0], dx)


class Live(TorchDispatchMode):
    """Bytes of the tensors that are alive, and the most there were; views count with what they look at."""

    def __init__(self) -> None:
        super().__init__()
        self.sizes: dict[int, int] = {}
        self.most = 0

    def __torch_dispatch__(self, f: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = f(*args, **(kwargs or {}))
        for x in (x for x in tree_leaves(out) if isinstance(x, Tensor) and x.numel()):
            storage = x.untyped_storage()
            if storage.data_ptr() not in self.sizes:
                self.sizes[storage.data_ptr()] = storage.nbytes()
                weakref.finalize(x, self.sizes.pop, storage.data_ptr(), None)
        self.most = max(self.most, sum(self.sizes.values()))
        return out


def test_logits_are_never_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    """At a vocabulary of 50,000 and chunks of 256 rows: never more than three of them, of four and a rest."""
    monkeypatch.setattr(module, "_rows", CHUNK)
    rows, vocabulary = 1100, 50_000
    x = torch.randn(rows, 16, requires_grad=True)
    weight = torch.randn(vocabulary, 16, requires_grad=True)
    targets = torch.randint(vocabulary, (rows,))
    with Live() as live:
        ours = torch.autograd.grad(linear_cross_entropy(x, weight, targets), (x, weight))
    gradients = 4 * sum(x.nbytes for x in ours)
    assert live.most <= 3 * 256 * vocabulary * 4 + gradients < rows * vocabulary * 4
    with Live() as live:
        theirs = torch.autograd.grad(_plain(x, weight, targets), (x, weight))
    assert live.most > rows * vocabulary * 4
    for mine, other in zip(ours, theirs, strict=True):
        close(mine, other)
    with torch.no_grad():
        close(linear_cross_entropy(x, weight, targets), _plain(x, weight, targets))
