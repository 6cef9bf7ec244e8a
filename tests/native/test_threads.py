"""The number of threads changes no bit of any kernel's result."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from ops.recurrences import NATIVE, ROWS, Case, compiled, draw, results
from recurra import ops
from recurra.ops import native
from recurra.state import ConvState, KVState

pytestmark = NATIVE
# Above what one thread does alone; neither the rows nor the channels divide by two.
CASES = [Case(131, 70, "both", batch=5), Case(300, 67, "none", True, batch=1), Case(2, 9000, "reset")]


def same_bits(f: Callable[[], tuple[Tensor, ...]]) -> None:
    outs = []
    for count in (1, 2, 2, 3):
        torch.set_num_threads(count)
        outs.append(f())
    for other in outs[1:]:
        for x, y in zip(outs[0], other, strict=True):
            assert x.equal(y)


@pytest.mark.parametrize("case", CASES, ids=str)
@pytest.mark.parametrize(
    "name",
    [
        "linear",
        "linear complex",
        "mingru positive",
        "minlstm tanh",
        "softmax",
        "softmax decaying",
        "selective",
        "token mix",
    ],
)
def test_recurrences(name: str, case: Case) -> None:
    assert case.batch * case.time * case.width >= native.PARALLEL
    for dtype in ROWS[name].dtypes:
        drawn = draw(ROWS[name], case, dtype)
        same_bits(lambda d=drawn: tuple(results(compiled, ROWS[name], d, case.reverse).values()))


@pytest.mark.parametrize("case", CASES, ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_convolutions(dtype: torch.dtype, case: Case) -> None:
    drawn = draw(ROWS["linear"], case, dtype)
    x, weight = drawn.xs[1].requires_grad_(), torch.randn(case.width, 4).to(dtype).requires_grad_()
    bias = torch.randn(case.width).to(dtype).requires_grad_()
    state = torch.randn(case.batch, 3, case.width, requires_grad=True)

    def run() -> tuple[Tensor, ...]:
        y, end = ops.causal_conv(x, weight, bias, ConvState(state), drawn.reset, drawn.lengths)
        return (y, *torch.autograd.grad((y, end.x), (x, weight, bias, state), (drawn.dy, end.x.detach())))

    same_bits(run)


@pytest.mark.parametrize("shape", [(1, 700, 301), (16, 301, 700), (200, 257, 131)])
def test_products(shape: tuple[int, int, int]) -> None:
    rows, width, out = shape
    x, weight = torch.randn(rows, width), torch.randn(out, width)
    same_bits(lambda: (native.matvec(x, weight, None), native.product(x, weight, None)))
    same_bits(lambda: (native.product(x, weight.t().contiguous().t(), None),))
    for kind in ("bf16", "int8") if rows <= 16 else ():
        packed = ops.Quantized.of(weight, kind)
        same_bits(lambda packed=packed: (native.matvec(x, packed, None),))
    blocks = torch.randn(2, 7, out, width // 7)
    same_bits(lambda: (native.block_product((x[:, : width // 7 * 7],), (blocks,)),))


def test_fours() -> None:
    x, weight = torch.randn(301, 512), torch.randn(2, 128, 4, 4)
    same_bits(lambda: (native.fours((x,), (weight,)),))
    same_bits(lambda: tuple(native.fours_backward(torch.cat([x, x], 1), (x,), (weight,))))


def test_a_selective_step() -> None:
    x, mixed, z, h = (torch.randn(3, *size) for size in ((1500,), (35,), (1500,), (16, 1500)))
    parameters = torch.randn(3, 1500), -torch.rand(16, 1500), *torch.randn(2, 1500)
    assert h.numel() // 4 >= native.PARALLEL
    same_bits(lambda: native.selective_step((x, mixed, z), parameters, h))


def test_a_step_of_attention() -> None:
    entries = [torch.randn(2, 3, count, 34) for count in (2000, 2000, 5, 5)]
    qkv, state = torch.randn(2, 3, 3, 34), KVState(*entries, torch.tensor([2005, 900]))
    with torch.no_grad():
        same_bits(lambda: (ops.attention_step(qkv, state)[0],))


def test_a_step_of_cross_attention() -> None:
    q, memory, lengths = torch.randn(2, 5, 3, 34), torch.randn(2, 2, 3, 900, 34), torch.tensor([900, 7])
    same_bits(lambda: (native.cross_attention(q, memory, lengths),))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_pointwise(dtype: torch.dtype) -> None:
    shapes = ((131, 257), (131, 257), (257,))
    x, added, weight = leaves = [torch.randn(s).to(dtype).requires_grad_() for s in shapes]

    def run() -> tuple[Tensor, ...]:
        norms = (*ops.add_rms_norm(x, added, weight), *ops.add_layer_norm(x, added, weight, weight))
        y = (*norms, ops.activate("gelu", x, added, added))
        return (*y, *torch.autograd.grad(y, leaves, [t.detach() for t in y]))

    same_bits(run)
