"""The matrix memory: each form is the fp64 loop; layouts, threads and cuts of the sequence change nothing."""

from functools import partial
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor
from torch.library import opcheck

from recurra import ops, state
from recurra.ops import native
from recurra.ops.outer import BACKWARD, OP, take_outer_step
from recurra.ops.outer_forms import Inputs, outer_loop, outer_open, outer_step
from recurra.state import OuterState
from recurrences import LAYOUTS, NATIVE, Case, draw_masks
from tools import TOLERANCE, close

pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit.script` is:DeprecationWarning")

# Whose decays: of a head, of each key; with a gate, with a bonus.
MODES = ("gated", "of heads", "of keys", "bonus", "bonus of heads")
# By how much most steps decay; one in eight is gentle: a gradient of what is forgotten is all rounding.
RATES = {"mixed": 1.0, "forget all": 40.0, "forget nothing": 0.0, "slowly": 0.001}
SIZES = [(1, 1, 1, 1), (2, 3, 1, 4), (7, 1, 17, 5), (65, 2, 3, 17), (130, 1, 16, 16)]  # T, H, K, V
# A max is a difference of what its units are made of.
LOOSE = {"dmax": 64.0}


class Drawn(NamedTuple):
    """What a form takes, and the cotangents of y and of the state's parts."""

    tensors: dict[str, Tensor]
    masks: tuple[Tensor | None, Tensor | None]
    cotangents: tuple[Tensor, ...]


def _draw(mode: str, size: tuple[int, ...], masks: str, kind: str, dtype: torch.dtype) -> Drawn:
    (time, heads, keys, values), batch = size, 2
    rng = torch.Generator().manual_seed(time + keys)
    wide = torch.promote_types(dtype, torch.float32)
    normal = partial(torch.randn, generator=rng, dtype=wide)
    gated, steps = mode == "gated", (batch, time, heads)
    decay = -RATES[kind] * normal(*steps, *((keys,) if mode in ("of keys", "bonus") else ())).abs()
    decay = torch.where(torch.rand(decay.shape, generator=rng) < 7 / 8, decay, decay.clamp(min=-0.1))
    decay[:, :1] = decay[:, :1].clamp(min=-0.1)
    given = {
        "q": normal(*steps, keys),
        "k": normal(*steps, keys),
        "v": normal(*steps, values),
        "decay": decay,
    }
    if gated:  # one sign in all: a divisor that cancels is all rounding
        given |= {"gate": normal(*steps), "q": given["q"].abs(), "k": -given["k"].abs()}
    if masks == "all true":  # a step by itself is divided by one alone where it is small
        given["q"] = given["q"] / 50
    given = {name: x.to(dtype) for name, x in given.items()}
    given |= {"bonus": normal(heads, keys)} if mode.startswith("bonus") else {}
    shapes = ((batch, heads, keys, values), (batch, heads, keys * gated), (batch, heads * gated))
    first = dict(zip(("c", "n", "max"), (normal(*shape) for shape in shapes), strict=True))
    first["n"] = -first["n"].abs()
    dy = normal(*steps, values).to(dtype)
    case = Case(time, keys, masks, batch=batch)
    return Drawn(given | first, draw_masks(case, rng), (dy, *(normal(*shape) for shape in shapes)))


def _called(inputs: Inputs, bonus: Tensor | None, first: OuterState, *rest: Any) -> tuple[Tensor, OuterState]:
    *masks, scale = rest
    return ops.outer(*inputs, first, *masks, bonus=bonus, scale=scale)


def _results(form: Any, drawn: Drawn, dtype: torch.dtype | None = None) -> dict[str, Tensor]:
    """Outputs, last state, and the gradients of every input and of the first state, unless empty."""
    at = {name: x.detach().to(dtype or x.dtype).requires_grad_() for name, x in drawn.tensors.items()}
    inputs = Inputs(at["q"], at["k"], at["v"], at["decay"], at.get("gate"))
    y, last = form(inputs, at.get("bonus"), OuterState(at["c"], at["n"], at["max"]), *drawn.masks, 0.5)
    seeds = [x.to(dtype or x.dtype) for x in drawn.cotangents]
    grads = torch.autograd.grad((y, *last), list(at.values()), seeds, materialize_grads=True)
    names = ["y", "c_n", "n_n", "max_n", *(f"d{name}" for name in at)]
    return {name: x for name, x in zip(names, (y, *last, *grads), strict=True) if x.numel()}


def _meets(form: Any, drawn: Drawn) -> None:
    want = _results(outer_loop, drawn, torch.float64)
    for name, got in _results(form, drawn).items():
        if want[name].abs().amax() < 1e-12:  # zero but for rounding: decays where every step is cut off
            assert got.abs().amax() < torch.finfo(got.dtype).eps
            continue
        close(got, want[name], TOLERANCE[got.dtype] * LOOSE.get(name, 1.0))


FORMS = [outer_open, pytest.param(_called, marks=NATIVE, id="compiled")]
CASES = [
    (mode, SIZES[(i + j) % len(SIZES)], masks, list(RATES)[(i + j + j // 4) % 4])
    for i, mode in enumerate(MODES)
    for j, masks in enumerate(("none", "reset", "lengths", "both", "all true", "all false") * 2)
]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(("mode", "size", "masks", "kind"), CASES)
def test_the_loop_in_fp64(
    form: Any, mode: str, size: tuple[int, ...], masks: str, kind: str, dtype: torch.dtype
) -> None:
    _meets(form, _draw(mode, size, masks, kind, dtype))


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("mode", MODES)
def test_no_steps(form: Any, mode: str) -> None:
    _meets(form, _draw(mode, (0, 2, 3, 4), "both", "mixed", torch.float32))


def test_attention_with_gates() -> None:
    """mLSTM's parallel form in fp64 (arXiv 2405.04517, appendix A.3): all pairs of steps at once."""
    at = _draw("gated", (40, 2, 5, 7), "none", "mixed", torch.float64).tensors
    q, k, v, decay, gate = (at[name].transpose(1, 2) for name in ("q", "k", "v", "decay", "gate"))
    total = decay.cumsum(-1)
    logs = (total[..., None] - total[..., None, :] + gate[..., None, :]).tril()
    weights = (q @ k.mT / 5**0.5) * logs.exp().tril()
    want = (weights @ v / weights.sum(-1, keepdim=True).abs().clamp(min=1)).transpose(1, 2)
    got, _ = ops.outer(*(at[name] for name in ("q", "k", "v", "decay", "gate")), scale=5**-0.5)
    close(got, want)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_one_step(mode: str, dtype: torch.dtype) -> None:
    at = _draw(mode, (1, 2, 17, 5), "none", "mixed", dtype).tensors
    steps = Inputs(at["q"], at["k"], at["v"], at["decay"], at.get("gate")).each(lambda x: x[:, 0])
    first, bonus = OuterState(at["c"], at["n"], at["max"]), at.get("bonus")
    want, after = outer_step(steps, first, bonus, 0.5)
    for quiet in (True, False):
        with torch.set_grad_enabled(not quiet):
            y, last = take_outer_step(*steps, first, bonus=bonus, scale=0.5)
        for got, expected in zip((y, *last), (want, *after), strict=True):
            close(got, expected)


@NATIVE
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("mode", ["gated", "bonus"])
def test_layouts(mode: str, layout: str) -> None:
    def laid(x: Tensor) -> Tensor:
        flat = LAYOUTS[layout](x.flatten(2)) if x.ndim > 2 else x
        return flat.unflatten(2, x.shape[2:]) if x.ndim > 3 else flat

    drawn = _draw(mode, (70, 2, 3, 5), "both", "mixed", torch.float32)
    repeated = layout.startswith("one")  # a divisor of such inputs may cancel
    names = [n for n in Inputs._fields if n in drawn.tensors and not (repeated and n in "qk")]
    _meets(_called, drawn._replace(tensors=drawn.tensors | {n: laid(drawn.tensors[n]) for n in names}))


@NATIVE
@pytest.mark.parametrize("mode", ["gated", "of keys"])
def test_threads_change_nothing(mode: str) -> None:
    drawn, found = _draw(mode, (130, 4, 32, 33), "both", "mixed", torch.float32), []
    for count in (1, 2):
        torch.set_num_threads(count)
        found.append(_results(_called, drawn))
    assert native.PARALLEL < 130 * 4 * 32 * 33
    assert all(found[0][name].equal(found[1][name]) for name in found[0])


@NATIVE
@pytest.mark.parametrize("mode", MODES)
def test_opcheck(mode: str) -> None:
    drawn = _draw(mode, (9, 2, 3, 4), "both", "mixed", torch.float32)
    at = drawn.tensors
    names = ("q", "k", "v", "decay", "gate", "bonus", "c", "n", "max")
    given = [at[n].requires_grad_() if n in at else None for n in names]
    arguments = (*given, *drawn.masks, 0.5)
    opcheck(OP, arguments)
    kept = [x.detach().nan_to_num() for x in OP(*arguments)[1:]]
    seeds = [x.requires_grad_() for x in drawn.cotangents]
    opcheck(BACKWARD, (*seeds, *given, *kept, *drawn.masks, 0.5))


@NATIVE
@pytest.mark.parametrize("mode", ["gated", "bonus"])
def test_second_derivatives(mode: str) -> None:
    drawn = _draw(mode, (5, 1, 2, 3), "both", "mixed", torch.float64)
    names = list(drawn.tensors)

    def call(*leaves: Tensor) -> tuple[Tensor, ...]:
        at = dict(zip(names, leaves, strict=True))
        inputs = Inputs(at["q"], at["k"], at["v"], at["decay"], at.get("gate"))
        y, last = _called(inputs, at.get("bonus"), OuterState(at["c"], at["n"], at["max"]), *drawn.masks, 1.0)
        return y, *(x for x in last if x.numel())

    given = [x.requires_grad_() for x in drawn.tensors.values()]
    assert torch.autograd.gradcheck(call, given)
    assert torch.autograd.gradgradcheck(call, given)


def test_under_torch_func() -> None:
    at = _draw("gated", (6, 1, 3, 2), "none", "mixed", torch.float64).tensors

    def total(k: Tensor) -> Tensor:
        return ops.outer(at["q"], k, at["v"], at["decay"], at["gate"])[0].square().sum()

    leaf = at["k"].clone().requires_grad_()
    (want,) = torch.autograd.grad(total(leaf), leaf)
    close(torch.func.grad(total)(at["k"]), want)
    tangent = torch.ones_like(at["k"])
    close(torch.func.jvp(total, (at["k"],), (tangent,))[1], (want * tangent).sum())


@pytest.mark.parametrize("mode", ["gated", "bonus"])
def test_compiled_whole(mode: str) -> None:
    at = _draw(mode, (9, 1, 3, 4), "none", "mixed", torch.float32).tensors

    def call(q: Tensor) -> Tensor:
        inputs = (q, at["k"], at["v"], at["decay"], at.get("gate"))
        return ops.outer(*inputs, bonus=at.get("bonus"))[0]

    close(torch.compile(call, fullgraph=True, backend="aot_eager")(at["q"]), call(at["q"]))


def test_a_state_of_another_row_is_found_in_a_file(tmp_path: Any) -> None:
    at = _draw("gated", (5, 1, 3, 4), "none", "mixed", torch.float32).tensors
    _, last = ops.outer(*(at[n] for n in ("q", "k", "v", "decay", "gate")))
    state.save(last, tmp_path / "state.safetensors")
    again = state.load(tmp_path / "state.safetensors")
    assert isinstance(again, OuterState)
    assert all(one.equal(other) for one, other in zip(again, last, strict=True))


X, HEADS = torch.randn(2, 5, 3, 4), torch.randn(2, 5, 3)
GOOD: dict[str, Any] = {"q": X, "k": X, "v": X, "decay": -HEADS.abs(), "gate": HEADS}
WRONG: list[tuple[str, Any]] = [
    ("q", X[0]),
    ("q", X.long()),
    ("v", X[..., 0]),
    ("k", X[..., :3]),
    ("v", X[:, :, :2]),
    ("decay", X),
    ("gate", X[..., 0, :]),
    ("gate", HEADS.double()),
    ("bonus", X[0, 0]),
    ("state", OuterState(torch.zeros(2, 3, 4, 5), torch.zeros(2, 3, 4), torch.zeros(2, 3))),
    ("state", OuterState(torch.zeros(2, 3, 4, 4), torch.zeros(2, 3, 0), torch.zeros(2, 3))),
    ("reset", torch.zeros(2, 4, dtype=torch.bool)),
    ("lengths", torch.tensor([1.0, 2.0])),
]


@pytest.mark.parametrize(("name", "value"), WRONG)
def test_errors_name_the_argument(name: str, value: Any) -> None:
    with pytest.raises(ValueError, match=name):
        ops.outer(**(GOOD | {name: value}))
