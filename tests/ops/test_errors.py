"""A wrong dtype, device or shape gives an error that names the argument: one row for each."""

from collections.abc import Callable
from typing import Any

import pytest
import torch

from recurra import ops
from recurra.ops import native
from recurra.ops.causal_conv import conv_step
from recurra.ops.gated import gated_native
from recurra.ops.linear import linear_native
from recurra.ops.softmax import take_step
from recurra.ops.token_mix import token_mix_step
from recurra.state import ConvState, LinearState, SelectiveState, ShiftState, SoftmaxState, to
from recurrences import NATIVE
from tools import leaves

B, T, D = 2, 5, 6
X, GATES, WEIGHT = torch.randn(B, T, D), torch.randn(B, T, 6 * D), torch.randn(D, 4)
H = torch.randn(B, D)

# Every op by what its arguments are called, with something right for each.
RIGHT: dict[str, tuple[Callable[..., Any], dict[str, Any]]] = {
    "linear": (ops.linear, {"a": X, "b": X, "state": LinearState(H)}),
    "mingru": (ops.mingru, {"gates": GATES, "state": LinearState(torch.randn(B, 3 * D))}),
    "minlstm": (ops.minlstm, {"gates": GATES, "state": LinearState(torch.randn(B, 2 * D))}),
    "causal_conv": (
        ops.causal_conv,
        {"x": X, "weight": WEIGHT, "bias": torch.randn(D), "state": ConvState(torch.randn(B, 3, D))},
    ),
    "selective": (
        ops.selective,
        {
            **dict.fromkeys(("x", "delta", "z"), X),
            **dict.fromkeys(("B", "C"), X[..., :3]),
            **dict.fromkeys(("D", "bias"), H[0]),
            "A": -WEIGHT[:, :3].exp(),
            "state": SelectiveState(torch.randn(B, 3, D)),
        },
    ),
    "softmax": (
        ops.softmax,
        {
            "scores": X[..., :2],
            "values": X,
            "state": SoftmaxState(H[:, :2], H, H[:, :2].exp()),
            "decay": torch.rand(2),
            "bonus": torch.rand(2),
        },
    ),
    "token_shift": (ops.token_shift, {"x": X, "state": ShiftState(H)}),
    "project": (
        ops.project,
        {"x": X, "weight": WEIGHT.t(), "bias": torch.randn(4), "added": torch.randn(B, T, 4)},
    ),
    "conv_step": (
        conv_step,
        {"x": H, "state": ConvState(torch.randn(B, 3, D)), "weight": WEIGHT, "bias": torch.randn(D)},
    ),
    "take_step": (
        take_step,
        {
            "scores": H[:, :2],
            "values": H,
            "state": SoftmaxState(H[:, :2], H, H[:, :2].exp()),
            "decay": torch.rand(2),
            "bonus": torch.rand(2),
        },
    ),
    "token_mix": (
        ops.token_mix,
        {"x": X, "mixes": (H[0], H[1], H[0]), "state": ConvState(torch.randn(B, 1, D))},
    ),
    "token_mix_step": (
        token_mix_step,
        {"x": H, "mixes": (H[0], H[1], H[0]), "state": ConvState(torch.randn(B, 1, D))},
    ),
    "layer_norm": (
        ops.add_layer_norm,
        {"x": X, "added": X, "weight": torch.rand(D), "bias": torch.rand(D)},
    ),
    "norm": (ops.add_rms_norm, {"x": X, "added": X, "weight": torch.rand(D)}),
}
MASKS = {"reset": torch.zeros(B, T, dtype=torch.bool), "lengths": torch.tensor([T, 2])}
UNTIMED = ("project", "conv_step", "take_step", "token_mix_step", "layer_norm", "norm")
TIMED = [name for name in RIGHT if name not in UNTIMED]

# op, argument, something wrong for it.
WRONG: list[tuple[str, str, Any]] = [
    ("linear", "a", torch.randn(B, T + 1, D)),
    ("linear", "a", torch.ones(B, T, D, dtype=torch.int64)),
    ("linear", "a", X.to("meta")),
    ("linear", "b", torch.ones(B, T, D, dtype=torch.bool)),
    ("linear", "b", X.to("meta")),
    ("linear", "state", LinearState(torch.randn(B, D + 1))),
    ("linear", "state", LinearState(torch.randn(B + 1, D))),
    ("linear", "state", LinearState(H.to("meta"))),
    ("linear", "state", LinearState(H.to(torch.complex64))),
    ("mingru", "gates", torch.randn(B, T)),
    ("mingru", "gates", torch.randn(B, T, 7)),
    ("mingru", "gates", torch.ones(B, T, 2 * D, dtype=torch.int32)),
    ("mingru", "gates", torch.ones(B, T, 2 * D, dtype=torch.complex64)),
    ("mingru", "state", LinearState(H)),
    ("mingru", "state", LinearState(torch.randn(B, 3 * D).to("meta"))),
    ("mingru", "candidate", "relu"),
    ("minlstm", "gates", torch.randn(B, T, 7)),
    ("minlstm", "state", LinearState(torch.randn(B, 3 * D))),
    ("minlstm", "candidate", ""),
    ("causal_conv", "x", torch.randn(T, D)),
    ("causal_conv", "x", torch.ones(B, T, D, dtype=torch.int64)),
    ("causal_conv", "weight", torch.randn(D + 1, 4)),
    ("causal_conv", "weight", torch.randn(D)),
    ("causal_conv", "weight", torch.randn(D, 0)),
    ("causal_conv", "weight", torch.ones(D, 4, dtype=torch.int64)),
    ("causal_conv", "weight", WEIGHT.to("meta")),
    ("causal_conv", "bias", torch.randn(D + 1)),
    ("causal_conv", "bias", torch.randn(D).to("meta")),
    ("causal_conv", "bias", torch.ones(D, dtype=torch.int64)),
    ("causal_conv", "state", ConvState(torch.randn(B, 4, D))),
    ("causal_conv", "state", ConvState(torch.randn(B, 3, D).to("meta"))),
    ("selective", "x", torch.randn(B, T)),
    ("selective", "x", torch.ones(B, T, D, dtype=torch.int64)),
    ("selective", "delta", torch.randn(B, T, D + 1)),
    ("selective", "delta", X.to("meta")),
    ("selective", "A", torch.randn(3, D)),
    ("selective", "A", torch.randn(D)),
    ("selective", "B", torch.randn(B, T, 4)),
    ("selective", "C", torch.randn(B, T + 1, 3)),
    ("selective", "C", torch.ones(B, T, 3, dtype=torch.int64)),
    ("selective", "D", torch.randn(D + 1)),
    ("selective", "bias", torch.randn(D).to("meta")),
    ("selective", "z", torch.randn(B, T, 1)),
    ("selective", "state", SelectiveState(torch.randn(B, D, 3))),
    ("selective", "state", SelectiveState(torch.randn(B, 3, D).to("meta"))),
    ("softmax", "scores", torch.randn(B, T, 4)),
    ("softmax", "scores", torch.randn(B, T, 0)),
    ("softmax", "scores", torch.randn(B, T)),
    ("softmax", "scores", torch.ones(B, T, 2, dtype=torch.int64)),
    ("softmax", "values", torch.randn(B, T + 1, D)),
    ("softmax", "values", X.double()),
    ("softmax", "values", X.to("meta")),
    ("softmax", "state", SoftmaxState(H, H, H)),
    ("softmax", "state", SoftmaxState(H[:1, :2], H, H[:, :2])),
    ("softmax", "state", SoftmaxState(*(x.to("meta") for x in (H[:, :2], H, H[:, :2])))),
    ("softmax", "decay", torch.rand(D)),
    ("softmax", "decay", torch.ones(2, dtype=torch.int64)),
    ("softmax", "bonus", torch.rand(2, 1)),
    ("softmax", "bonus", torch.rand(2).to("meta")),
    ("token_shift", "x", torch.randn(T, D)),
    ("token_shift", "state", ShiftState(torch.randn(B, D + 1))),
    ("token_shift", "state", ShiftState(H.to("meta"))),
    ("project", "x", torch.randn(B, D + 1)),
    ("project", "weight", torch.randn(4, D + 1)),
    ("project", "weight", torch.randn(D)),
    ("project", "weight", WEIGHT.t().to("meta")),
    ("project", "bias", torch.randn(5)),
    ("project", "bias", torch.randn(3)),
    ("project", "bias", torch.randn(4).to("meta")),
    ("project", "x", torch.tensor(1.0)),
    ("project", "added", torch.randn(B, T, D)),
    ("project", "added", torch.randn(T, 4)),
    ("project", "added", torch.randn(B, T, 4).to("meta")),
    ("conv_step", "x", H[0]),
    ("conv_step", "weight", torch.randn(D + 1, 4)),
    ("conv_step", "bias", torch.randn(D + 1)),
    ("conv_step", "bias", torch.randn(D).to("meta")),
    ("conv_step", "state", ConvState(torch.randn(1, 3, D))),
    ("conv_step", "state", ConvState(torch.randn(B, 4, D))),
    ("conv_step", "state", ConvState(torch.randn(B, 3, D).to("meta"))),
    ("take_step", "scores", H[0]),
    ("take_step", "scores", H[:, :4]),
    ("take_step", "values", H.double()),
    ("take_step", "state", SoftmaxState(H, H, H)),
    ("take_step", "decay", torch.rand(D)),
    ("take_step", "bonus", torch.rand(2).to("meta")),
    ("token_mix", "x", H),
    ("token_mix", "x", torch.ones(B, T, D, dtype=torch.int64)),
    ("token_mix", "mixes", (H[0], H)),
    ("token_mix", "mixes", (H[0].to("meta"),)),
    ("token_mix", "state", ConvState(torch.randn(B, 2, D))),
    ("token_mix", "state", ConvState(torch.randn(B, 1, D).to("meta"))),
    ("token_mix_step", "x", H[0]),
    ("token_mix_step", "mixes", (H[0], H)),
    ("token_mix_step", "mixes", (H[0].to("meta"),)),
    ("token_mix_step", "state", ConvState(torch.randn(B, 2, D))),
    ("token_mix_step", "state", ConvState(torch.randn(B, 1, D).to("meta"))),
    ("layer_norm", "bias", torch.rand(D + 1)),
    ("layer_norm", "bias", torch.rand(D).to("meta")),
    ("norm", "x", torch.tensor(1.0)),
    ("norm", "x", torch.ones(B, T, D, dtype=torch.int64)),
    ("norm", "weight", torch.rand(D + 1)),
    ("norm", "weight", torch.rand(1, D)),
    ("norm", "weight", torch.rand(D).to("meta")),
    ("norm", "added", H),
    ("norm", "added", X.to("meta")),
    *((name, "reset", torch.zeros(B, T)) for name in TIMED),
    *((name, "reset", torch.zeros(B, T + 1, dtype=torch.bool)) for name in TIMED),
    *((name, "reset", torch.zeros(T, dtype=torch.bool)) for name in TIMED),
    *((name, "reset", torch.zeros(B, T, dtype=torch.bool, device="meta")) for name in TIMED),
    *((name, "lengths", torch.tensor([1.0, 2.0])) for name in TIMED),
    *((name, "lengths", torch.tensor([True, False])) for name in TIMED),
    *((name, "lengths", torch.tensor([1, 2, 3])) for name in TIMED),
    *((name, "lengths", torch.tensor([T, T + 1])) for name in TIMED),
    *((name, "lengths", torch.tensor([-1, 2])) for name in TIMED),
]


# Without gradients some kernels are called past the dispatcher, which would have looked at devices.
GRADIENTS = pytest.mark.parametrize("gradients", [True, False], ids=["gradients", "no gradients"])


@GRADIENTS
@pytest.mark.parametrize("name", RIGHT)
def test_what_is_right_passes(name: str, gradients: bool) -> None:
    op, arguments = RIGHT[name]
    with torch.set_grad_enabled(gradients):
        op(**arguments, **(MASKS if name in TIMED else {}))


@GRADIENTS
@pytest.mark.parametrize(("name", "argument", "wrong"), WRONG)
def test_the_argument_is_named(name: str, argument: str, wrong: Any, gradients: bool) -> None:
    """And what came for it is told, so that nobody has to print it."""
    op, arguments = RIGHT[name]
    with torch.set_grad_enabled(gradients), pytest.raises(ValueError, match=rf"\b{argument}\b") as error:
        op(**{**arguments, argument: wrong})
    got = wrong[0] if isinstance(wrong, tuple) else wrong
    if isinstance(got, torch.Tensor):
        told = (str(list(got.shape)), str(got.dtype), str(got.device))
        values = [f"{got.min()}..{got.max()}"] if argument == "lengths" else []
        assert any(x in str(error.value) for x in (*told, *values))
    else:
        assert repr(got) in str(error.value)


@NATIVE
@pytest.mark.parametrize(
    "inputs", [(X.half(),), (X.to("meta"),), (X.int(),)], ids=["half", "another device", "integers"]
)
def test_a_form_that_cannot_run_raises(inputs: tuple[torch.Tensor, ...]) -> None:
    for call in (
        lambda: linear_native(*inputs, *inputs, H, None, None, False),
        lambda: gated_native(*inputs, H, None, None, "mingru_tanh", False),
        lambda: native.conv(*inputs, WEIGHT, None, torch.zeros(B, 3, D), None, None),
    ):
        with pytest.raises(RuntimeError, match="CPU tensors of one dtype"):
            call()


@NATIVE
def test_two_dtypes_never_meet_in_a_kernel() -> None:
    with pytest.raises(RuntimeError, match="CPU tensors of one dtype"):
        linear_native(X, X.bfloat16(), H, None, None, False)
    y, _ = ops.linear(X, X.bfloat16())
    assert y.equal(ops.linear(X, X.bfloat16().float())[0])


@pytest.mark.parametrize("dtype", [torch.float16, torch.float8_e4m3fn])
def test_dtypes_without_a_kernel(dtype: torch.dtype) -> None:
    """fp16 takes the plain form; what torch itself can't multiply is its error."""
    if dtype == torch.float16:
        y, state = ops.mingru(GATES.half())
        assert y.dtype == torch.float16
        assert state.h.dtype == torch.float32
    else:
        with pytest.raises((RuntimeError, NotImplementedError, ValueError)):
            ops.linear(X.to(dtype), X.to(dtype))


def test_other_devices_take_the_plain_form() -> None:
    for op, arguments in RIGHT.values():
        out = op(**{name: to(x, "meta") for name, x in arguments.items()})
        assert all(y.device.type == "meta" for y in leaves(out))
