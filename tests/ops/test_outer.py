"""The matrix memory: each form is the fp64 loop; layouts, threads and cuts of the sequence change nothing."""

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.library import opcheck

from outers import MODES, RATES, called, draw, meets, results
from recurra import ops, state
from recurra.ops import native
from recurra.ops.outer import BACKWARD, OP, take_outer_step
from recurra.ops.outer_forms import Inputs, outer_open, outer_step
from recurra.state import OuterState
from recurrences import LAYOUTS, NATIVE
from tools import close

SIZES = [(1, 1, 1, 1), (2, 3, 1, 4), (7, 1, 17, 5), (65, 2, 17, 37), (130, 1, 16, 16)]  # T, H, K, V
FORMS = [outer_open, pytest.param(called, marks=NATIVE, id="compiled")]
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
    meets(form, draw(mode, size, masks, kind, dtype))


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("mode", MODES)
def test_no_steps(form: Any, mode: str) -> None:
    meets(form, draw(mode, (0, 2, 3, 4), "both", "mixed", torch.float32))


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("mode", MODES)
def test_no_nan_crosses_a_reset(form: Any, mode: str) -> None:
    """Neither that of a state which step 0 forgets nor, backwards, that of a step behind."""
    reset = torch.zeros(2, 7, dtype=torch.bool)
    reset[:, 0] = reset[:, 4] = True
    drawn = draw(mode, (7, 1, 3, 2), "none", "mixed", torch.float32)._replace(masks=(reset, None))
    steps = [name for name in Inputs._fields if name in drawn.tensors]
    bad = {name: x.clone() for name, x in drawn.tensors.items()}
    for name in steps:
        bad[name][:, 4:] = torch.nan
    for name in OuterState._fields:
        bad[name].fill_(torch.nan)
    want, got = results(form, drawn), results(form, drawn._replace(tensors=bad))
    for name in ("y", *(f"d{name}" for name in steps)):
        close(got[name][:, :4], want[name][:, :4])
    assert not any(got[f"d{name}"].any() for name in OuterState._fields if bad[name].numel())


def test_attention_with_gates() -> None:
    """mLSTM's parallel form in fp64 (arXiv 2405.04517, appendix A.3): all pairs of steps at once."""
    at = draw("gated", (40, 2, 5, 7), "none", "mixed", torch.float64).tensors
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
    at = draw(mode, (1, 2, 17, 5), "none", "mixed", dtype).tensors
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

    drawn = draw(mode, (70, 2, 3, 5), "both", "mixed", torch.float32)
    repeated = layout.startswith("one")  # a divisor of such inputs may cancel
    names = [n for n in Inputs._fields if n in drawn.tensors and not (repeated and n in "qk")]
    meets(called, drawn._replace(tensors=drawn.tensors | {n: laid(drawn.tensors[n]) for n in names}))


@NATIVE
@pytest.mark.parametrize("mode", ["gated", "of keys"])
def test_threads_change_nothing(mode: str) -> None:
    drawn, found = draw(mode, (130, 4, 32, 33), "both", "mixed", torch.float32), []
    for count in (1, 2):
        torch.set_num_threads(count)
        found.append(results(called, drawn))
    assert native.PARALLEL < 130 * 4 * 32 * 33
    assert all(found[0][name].equal(found[1][name]) for name in found[0])


@NATIVE
@pytest.mark.parametrize("mode", MODES)
def test_opcheck(mode: str) -> None:
    drawn = draw(mode, (9, 2, 3, 4), "both", "mixed", torch.float32)
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
    drawn = draw(mode, (5, 1, 2, 3), "both", "mixed", torch.float64)
    names = list(drawn.tensors)

    def call(*leaves: Tensor) -> tuple[Tensor, ...]:
        at = dict(zip(names, leaves, strict=True))
        inputs = Inputs(at["q"], at["k"], at["v"], at["decay"], at.get("gate"))
        y, last = called(inputs, at.get("bonus"), OuterState(at["c"], at["n"], at["max"]), *drawn.masks, 1.0)
        return y, *(x for x in last if x.numel())

    given = [x.requires_grad_() for x in drawn.tensors.values()]
    assert torch.autograd.gradcheck(call, given)
    assert torch.autograd.gradgradcheck(call, given)


def test_under_torch_func() -> None:
    at = draw("gated", (6, 1, 3, 2), "none", "mixed", torch.float64).tensors

    def total(k: Tensor) -> Tensor:
        return ops.outer(at["q"], k, at["v"], at["decay"], at["gate"])[0].square().sum()

    leaf = at["k"].clone().requires_grad_()
    (want,) = torch.autograd.grad(total(leaf), leaf)
    close(torch.func.grad(total)(at["k"]), want)
    tangent = torch.ones_like(at["k"])
    close(torch.func.jvp(total, (at["k"],), (tangent,))[1], (want * tangent).sum())


@pytest.mark.parametrize("mode", ["gated", "bonus"])
def test_compiled_whole(mode: str) -> None:
    at = draw(mode, (9, 1, 3, 4), "none", "mixed", torch.float32).tensors

    def call(q: Tensor) -> Tensor:
        inputs = (q, at["k"], at["v"], at["decay"], at.get("gate"))
        return ops.outer(*inputs, bonus=at.get("bonus"))[0]

    close(torch.compile(call, fullgraph=True, backend="aot_eager")(at["q"]), call(at["q"]))


def test_a_state_of_another_row_is_found_in_a_file(tmp_path: Any) -> None:
    at = draw("gated", (5, 1, 3, 4), "none", "mixed", torch.float32).tensors
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
