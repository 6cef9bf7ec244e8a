"""The diagonal state space, and that minus rank one: each form is the fp64 loop; layouts, threads and
instruction sets change nothing."""

import sys
from functools import partial
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor
from torch.library import opcheck

from recurra import ops
from recurra.ops import native
from recurra.ops.loop import unroll
from recurra.state import LinearState
from recurrences import LAYOUTS, NATIVE, Case, draw_masks
from tools import close

module: Any = sys.modules["recurra.ops.diagonal"]  # the package's name of it is the function
dplr: Any = sys.modules["recurra.ops.dplr"]

Masks = tuple[Tensor | None, Tensor | None]
POLES = ("mixed", "forget all", "forget nothing", "slowly")


kinds = pytest.mark.parametrize("kind", ["diagonal", "dplr"])


class Drawn(NamedTuple):
    """u, a, b, c, with rank one also q, m, then skip and h_0; masks; the cotangents of y and h_n."""

    inputs: tuple[Tensor, ...]
    masks: Masks
    cotangents: tuple[Tensor, Tensor]


def _draw(
    case: Case, states: int, poles: str, dtype: torch.dtype = torch.float32, kind: str = "diagonal"
) -> Drawn:
    rng = torch.Generator().manual_seed(case.time + case.width)
    kept = torch.promote_types(dtype, torch.float32)
    normal = partial(torch.randn, generator=rng, dtype=kept)
    state, matrix = (case.batch, case.width, states, 2), (case.width, states, 2)
    angle = normal(*matrix[:2])
    size = {"mixed": torch.rand(*matrix[:2], generator=rng), "forget all": 0, "forget nothing": 1}
    a = torch.polar(torch.as_tensor(size.get(poles, 0.999), dtype=kept).expand_as(angle), angle)
    b, c, h_0, dh_n = (torch.view_as_complex(normal(*s)) for s in (matrix, matrix, state, state))
    u, dy, skip = normal(case.batch, case.time, case.width), normal(case.batch, case.time, case.width), normal
    # Small: with a feedback of any size nothing would keep h from growing.
    fed = [torch.view_as_complex(0.1 * normal(*matrix)) for _ in range(2 if kind == "dplr" else 0)]
    inputs = (u.to(dtype), a, b, c, *fed, skip(case.width), h_0)
    return Drawn(inputs, draw_masks(case, rng), (dy.to(dtype), dh_n))


def _results(form: Any, drawn: Drawn) -> dict[str, Tensor]:
    leaves = [x.detach().requires_grad_() for x in drawn.inputs]
    out = form(*leaves, *drawn.masks)
    grads = torch.autograd.grad(out, leaves, drawn.cotangents, materialize_grads=True)
    matrices = ["da", "db", "dc", "dq", "dm"][: len(leaves) - 3]
    return dict(zip(["y", "h_n", "du", *matrices, "dskip", "dh_0"], (*out, *grads), strict=True))


def _wide(x: Any) -> Any:
    return x.to(torch.complex128 if x.is_complex() else torch.float64)


def loop(*inputs: Any) -> Any:
    """The step, once after the other."""
    u, *matrices, skip, h_0, reset, lengths = inputs
    if not u.shape[1]:
        return u.clone(), h_0.clone()
    if len(matrices) == 3:
        step = partial(module.diagonal_step, a=matrices[0], b=matrices[1], c=matrices[2], skip=skip)
        y, state = unroll(step, (u,), LinearState(module.planes(h_0)), reset, lengths)
        return y, module.from_planes(state.h)
    a, b, c, q, m = matrices
    step = partial(dplr.dplr_step, s=dplr.Discrete(a, b, c / 2, q, m / 2), skip=skip)
    y, state = unroll(step, (u,), LinearState(h_0), reset, lengths)
    return y, state.h


def _planes(matrices: Any) -> Tensor:
    parameters: Tensor = module.planes(torch.stack(list(matrices))).movedim(1, 0)
    return parameters


def diagonal_loop(*inputs: Any) -> Any:
    """The loop of the file, which takes planes."""
    u, *matrices, skip, h_0, reset, lengths = inputs
    y, h_n = module.diagonal_loop(u, _planes(matrices), skip, module.planes(h_0), reset, lengths)
    return y, module.from_planes(h_n)


def public(*inputs: Any) -> Any:
    """What one calls."""
    u, *matrices, skip, h_0, reset, lengths = inputs
    if len(matrices) == 3:
        state = LinearState(module.planes(h_0))
        y, (h_n,) = ops.diagonal(u, *matrices, skip, state, reset, lengths)
    else:
        y, h_n = dplr.dplr_by_planes(u, _planes(matrices), skip, module.planes(h_0), reset, lengths)
    return y, module.from_planes(h_n)


def plain(*inputs: Any) -> Any:
    """What one calls, on a machine without kernels."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(native, "takes", lambda *_: False)
        return public(*inputs)


def fft(u: Tensor, a: Tensor, b: Tensor, c: Tensor, skip: Tensor, *_: Any) -> Any:
    """The convolution."""
    y, h_n = module.diagonal_fft(u, module.planes(torch.stack([a, b, c])).movedim(1, 0), skip)
    return y, module.from_planes(h_n)


FORMS = [
    ("diagonal", diagonal_loop),
    ("diagonal", plain),
    pytest.param("diagonal", public, marks=NATIVE),
    ("dplr", plain),
    pytest.param("dplr", public, marks=NATIVE),
]
# In chunks, what a step does is multiplied by itself.
CHUNKED = {("dplr", plain): 512.0}
CASES = [
    (Case(time, width, masks, batch=1 + i % 3), 1 + (i + j) % 5, POLES[(i + 2 * j) % 4])
    for i, time in enumerate((0, 1, 2, 63, 64, 65, 150))
    for j, (width, masks) in enumerate(zip((1, 3, 17, 40), ("none", "reset", "lengths", "both"), strict=True))
]


@pytest.mark.parametrize(("kind", "form"), FORMS)
@pytest.mark.parametrize(("case", "states", "poles"), CASES, ids=str)
def test_fp64_loop(kind: str, form: Any, case: Case, states: int, poles: str) -> None:
    allowed = CHUNKED.get((kind, form))
    for dtype in (torch.float32, torch.float64, torch.bfloat16):
        drawn = _draw(case, states, poles, dtype, kind)
        want = _results(
            loop, Drawn(tuple(map(_wide, drawn.inputs)), drawn.masks, tuple(map(_wide, drawn[2])))
        )
        for key, x in _results(form, drawn).items():
            narrow = key in {"y", "du"}
            assert x.dtype == (dtype if narrow else drawn.inputs[1].dtype if key != "dskip" else x.dtype), key
            # bf16 rounds what the gradients of the parameters are sums of, before the sum.
            if dtype == torch.bfloat16:
                close(x, want[key], None if narrow else 1 / torch.finfo(x.dtype).eps / 50)
            else:
                close(x, want[key], allowed)


@pytest.mark.parametrize("time", [1, 2, 65, 150])
def test_convolution(time: int) -> None:
    drawn = _draw(Case(time, 17), 3, "slowly", torch.float64)
    fresh = drawn._replace(inputs=(*drawn.inputs[:-1], torch.zeros_like(drawn.inputs[-1])))
    got, want = _results(fft, fresh), _results(loop, fresh)
    assert not got.pop("dh_0").any()
    for key, x in got.items():
        close(x, want[key])


@kinds
@pytest.mark.parametrize("form", [plain, pytest.param(public, marks=NATIVE)])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_strided_inputs(kind: str, form: Any, layout: str) -> None:
    drawn, f = _draw(Case(66, 19, "both"), 3, "mixed", kind=kind), LAYOUTS[layout]
    u, a, b, *rest, skip, h_0 = drawn.inputs
    strided = (f(u), a.t().contiguous().t(), b.conj(), *rest, skip.flip(0), h_0.mT.contiguous().mT)
    dy, dh_n = drawn.cotangents
    drawn = Drawn(strided, drawn.masks, (f(dy), dh_n.conj()))
    want = _results(loop, Drawn(tuple(map(_wide, drawn.inputs)), drawn.masks, tuple(map(_wide, drawn[2]))))
    for key, x in _results(form, drawn).items():
        close(x, want[key])


@pytest.mark.parametrize(
    ("file", "kernels"),
    [(module, False), pytest.param(module, True, marks=NATIVE), pytest.param(dplr, True, marks=NATIVE)],
)
@pytest.mark.parametrize("case", [Case(5, 3), Case(66, 17, "both"), Case(0, 2), Case(4, 3, "both", batch=0)])
def test_opcheck(monkeypatch: pytest.MonkeyPatch, case: Case, file: Any, kernels: bool) -> None:
    if not kernels:
        monkeypatch.setattr(native, "takes", lambda *_: False)
    kind = "dplr" if file is dplr else "diagonal"
    (u, *matrices, skip, h_0), masks, (dy, dh_n) = _draw(case, 2, "mixed", kind=kind)
    inputs = [x.detach().requires_grad_() for x in (u, _planes(matrices), skip, module.planes(h_0))]
    back = [x.detach().requires_grad_() for x in (dy, module.planes(dh_n))]
    opcheck(file.OP, (*inputs, *masks))
    opcheck(file.BACKWARD, (*back, *inputs, *masks))


@kinds
@pytest.mark.parametrize("form", [plain, pytest.param(public, marks=NATIVE)])
@pytest.mark.parametrize("masks", ["none", "both"])
def test_second_derivatives(kind: str, form: Any, masks: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dplr, "CHUNK", 2)
    drawn = _draw(Case(3, 2, masks, batch=2), 2, "mixed", torch.float64, kind)
    leaves = [x.detach().requires_grad_() for x in drawn.inputs]
    # Number by number it takes half a minute: in chunks there are many small products.
    torch.autograd.gradgradcheck(lambda *x: form(*x, *drawn.masks), leaves, fast_mode=kind == "dplr")


@kinds
def test_functional_transforms(kind: str) -> None:
    (u, *rest), masks, _ = _draw(Case(5, 3, "both"), 2, "mixed", torch.float64, kind)

    def f(form: Any) -> Any:
        return lambda u: form(u, *rest, *masks)[0].square().sum()

    close(torch.func.grad(f(public))(u), torch.func.grad(f(loop))(u))
    for got, want in zip(*(torch.func.jvp(f(form), (u,), (u,)) for form in (public, loop)), strict=True):
        close(got, want)


@NATIVE
@kinds
def test_threads_change_no_bit(kind: str) -> None:
    drawn = _draw(Case(300, 67, "both", batch=5), 4, "mixed", kind=kind)
    outs = []
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        outs.append(_results(public, drawn))
    assert all(x.equal(other[key]) for other in outs[1:] for key, x in outs[0].items())


@NATIVE
@kinds
@pytest.mark.parametrize("level", native.LEVELS)
def test_every_instruction_set(level: str, kind: str) -> None:
    before = native.level()
    if native.select(level) != level:
        pytest.skip(f"this machine has no {level}")
    try:
        for dtype in (torch.float32, torch.float64):
            drawn = _draw(Case(70, 21, "both"), 3, "slowly", dtype, kind)
            wide = Drawn(tuple(map(_wide, drawn.inputs)), drawn.masks, tuple(map(_wide, drawn[2])))
            want = _results(loop, wide)
            for key, x in _results(public, drawn).items():
                close(x, want[key])
    finally:
        native.select(before)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({0: torch.zeros(3, 5)}, r"u must be floating point \[batch, time, 3\], got torch.float32 \[3, 5\]"),
        (
            {k: torch.zeros(4, 2, dtype=torch.complex64) for k in (1, 2, 3)},
            r"u must be floating point \[batch, time, 4\]",
        ),
        (
            {2: torch.zeros(3, 1, dtype=torch.complex64)},
            r"b must be complex \[width, states\], got torch.complex64 \[3, 1\]",
        ),
        ({3: torch.zeros(3, 2)}, "c must be complex"),
        ({4: torch.zeros(2)}, r"skip must be real \[3\], got torch.float32 \[2\]"),
        ({5: LinearState(torch.zeros(2, 3, 1))}, r"state must be \[2, 2, 2, 3\]"),
    ],
)
def test_errors_name_the_argument(change: dict[int, Any], said: str) -> None:
    inputs: list[Any] = list(_draw(Case(5, 3, batch=2), 2, "mixed").inputs[:-1])
    for at, wrong in change.items():
        inputs[at:] = [wrong, *inputs[at + 1 :]]
    with pytest.raises(ValueError, match=said):
        ops.diagonal(*inputs)
