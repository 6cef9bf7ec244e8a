"""One layer: how it is drawn, where it starts, what it refuses, and that it copies nothing."""

import re
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

import recurra
from kinds import EVERY, HIDDEN, INPUT, Kind, each_gated, each_kind, every_gated, every_kind, truth
from recurra.layers import LAYERS, MinGRULayer, MinLSTMLayer
from recurra.ops import native
from recurra.state import LinearState
from tools import TOLERANCE, close, rms


def test_table() -> None:
    for name, row in LAYERS.items():
        layer = row.layer(INPUT, HIDDEN)
        assert layer.weight_ih.shape == (row.parts * HIDDEN, INPUT)
        if row.module is None:
            continue
        assert row.module.__name__ in recurra.__all__
        assert row.module.__name__.lower() == name
        assert isinstance(row.module(INPUT, HIDDEN).layers[0], row.layer)


@every_gated
def test_options_reach_every_layer(kind: Kind) -> None:
    for layer in kind.stack(bidirectional=True, forget_bias=2.0).layers:
        for name, option in {**kind.options, "forget_bias": 2.0}.items():
            assert getattr(layer, name, layer.initial_state is not None) == option, name


@each_gated
def test_drawn_as_linear(kind: Kind) -> None:
    torch.manual_seed(5)
    layer = LAYERS[kind.name].layer(50, 400)
    torch.manual_seed(5)
    linear = nn.Linear(50, layer.PARTS * 400)
    close(layer.weight_ih, linear.weight)
    close(layer.bias_ih, linear.bias)


@pytest.mark.parametrize(("layer", "sign"), [(MinGRULayer, -1), (MinLSTMLayer, 1)])
def test_forget_bias(layer: Any, sign: int) -> None:
    """It moves one slice of the bias, and towards remembering."""
    torch.manual_seed(5)
    plain = layer(INPUT, HIDDEN)
    torch.manual_seed(5)
    moved = layer(INPUT, HIDDEN, forget_bias=3.0)
    difference = (moved.bias_ih - plain.bias_ih).detach().split(HIDDEN)
    close(difference[1], torch.full((HIDDEN,), 3.0 * sign), eps=8)
    assert not torch.cat([difference[0], *difference[2:]]).any()
    h_0 = LinearState(torch.full((1, HIDDEN), 100.0))
    x = torch.zeros(1, 1, INPUT)
    assert (moved(x, h_0)[0] > plain(x, h_0)[0]).all()


def test_input_bias() -> None:
    """With it normalised gates remember: what is kept is f / (f + i)."""
    torch.manual_seed(5)
    plain = MinLSTMLayer(INPUT, HIDDEN)
    torch.manual_seed(5)
    moved = MinLSTMLayer(INPUT, HIDDEN, forget_bias=4.0, input_bias=-4.0)
    difference = (moved.bias_ih - plain.bias_ih).detach().split(HIDDEN)
    close(difference[2], torch.full((HIDDEN,), -4.0), eps=8)
    h_0 = LinearState(torch.full((1, HIDDEN), 100.0))
    assert (moved(torch.zeros(1, 1, INPUT), h_0)[0] > 95).all()
    with pytest.raises(ValueError, match="input_bias is added to the bias"):
        MinLSTMLayer(INPUT, HIDDEN, bias=False, input_bias=-1.0)


@every_gated
def test_learned_start(kind: Kind) -> None:
    layer, x = kind.layer(), torch.randn(2, 4, INPUT)
    if not kind.options["learned_state"]:
        assert "initial_state" not in dict(layer.named_parameters())
        close(layer(x)[0], layer(x, LinearState(torch.zeros(2, HIDDEN)))[0])
        return
    p = layer.initial_state.detach()
    positive = torch.where(p >= 0, p + 0.5, p.sigmoid())
    start = (positive if kind.options["candidate"] == "positive" else p).expand(2, -1)
    close(layer(x)[0], truth(layer, x, start))
    close(layer.step(x[:, 0])[0], truth(layer, x, start)[:, 0])


@each_gated
def test_learned_start_is_drawn_standard_normal(kind: Kind) -> None:
    p = LAYERS[kind.name].layer(INPUT, 10_000, learned_state=True).initial_state.detach()
    assert abs(p.mean().item()) < 0.05
    assert abs(p.std().item() - 1) < 0.05


@each_kind
def test_without_bias(kind: Kind) -> None:
    layer, x = kind.layer(bias=False), torch.randn(2, 4, INPUT)
    assert not any("bias" in name for name, _ in layer.named_parameters())
    close(layer(x)[0], truth(layer, x))
    close(layer.step(x[:, 0])[0], truth(layer, x)[:, 0])


@each_gated
def test_repr_says_what_it_is(kind: Kind) -> None:
    said = repr(kind.layer(candidate="tanh", forget_bias=1.5, learned_state=True, reverse=True))
    for part in ("5, 6", "bias=True", "candidate='tanh'", "forget_bias=1.5", "learned_state=True"):
        assert part in said


@each_gated
def test_wrong_options(kind: Kind) -> None:
    with pytest.raises(ValueError, match="candidate must be one of positive, linear, tanh, got 'relu'"):
        kind.layer(candidate="relu")
    with pytest.raises(ValueError, match="bias=True"):
        kind.layer(bias=False, forget_bias=1.0)


@every_kind
def test_wrong_inputs(kind: Kind) -> None:
    layer, x = kind.layer(), torch.randn(2, 4, INPUT)
    wrong: list[tuple[tuple[Any, ...], str]] = [
        ((x[0],), "x must be [batch, time, 5], got [4, 5]"),
        ((x[..., :4],), "x must be [batch, time, 5], got [2, 4, 4]"),
        ((x.double(),), "x is torch.float64, the weights are torch.float32"),
        ((x.long(),), "x is torch.int64"),
        ((x.to("meta"),), "x is on meta, the weights on cpu"),
        ((x, kind.state(torch.zeros(3, HIDDEN))), "state must be [2, 6]"),
        ((x, kind.state(torch.zeros(2, HIDDEN, device="meta"))), "state is on meta"),
        ((x, None, torch.zeros(4, 2, dtype=torch.bool)), "reset must be torch.bool [batch, time] = [2, 4]"),
        ((x, None, torch.zeros(2, 4)), "reset must be torch.bool"),
        ((x, None, torch.zeros(2, 4, dtype=torch.bool, device="meta")), "reset is on meta"),
        ((x, None, None, torch.tensor([1.0, 2.0])), "lengths must be integers [batch] = [2]"),
        ((x, None, torch.zeros(2, 4, dtype=torch.bool), torch.tensor([1, 5])), "lengths must lie in 0..4"),
    ]
    for args, said in wrong:
        with pytest.raises(ValueError, match=re.escape(said)):
            layer(*args)


@every_kind
@pytest.mark.parametrize("graph", [False, True], ids=["no_grad", "grad"])
def test_wrong_steps(kind: Kind, graph: bool) -> None:
    """The kernel reads where the state lies, so that what does not fit must not come that far."""
    layer, x_t = kind.layer(), torch.randn(2, INPUT)
    wrong: list[tuple[tuple[Any, ...], str]] = [
        ((x_t[:, :4],), "x_t must be [batch, 5], got [2, 4]"),
        ((x_t.double(),), "x_t is torch.float64, the weights are torch.float32"),
        ((x_t, kind.state(torch.zeros(1, HIDDEN))), "state must be [2, 6]"),
        ((x_t, kind.state(torch.zeros(2, 1, HIDDEN))), "state must be [2, 6]"),
        ((x_t, kind.state(torch.zeros(2, HIDDEN, device="meta"))), "state is on meta"),
    ]
    with torch.set_grad_enabled(graph):
        for args, said in wrong:
            with pytest.raises(ValueError, match=re.escape(said)):
                layer.step(*args)


@every_kind
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_step_takes_any_layout(kind: Kind, dtype: torch.dtype) -> None:
    layer = kind.layer(dtype=dtype)
    x_t, h = torch.randn(3, INPUT, dtype=dtype), torch.randn(3, HIDDEN, dtype=dtype)
    want, last = layer.step(x_t, kind.state(h))
    assert (want.dtype, last.h.dtype) == (dtype, torch.promote_types(dtype, torch.float32))
    with torch.no_grad():
        for x, state in (
            (x_t.t().contiguous().t(), h),
            (x_t, h.t().contiguous().t()),
            (x_t, h.to(last.h.dtype)),
        ):
            y, after = layer.step(x, kind.state(state))
            close(y, want)
            assert after.h.dtype == last.h.dtype


# ----------------------------------------------------------------------------------------------
# Memory order.


class _Seen:
    """What the product is given: by storage and stride, whether it was copied on the way."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.inputs: list[Tensor] = []
        patch.setattr("recurra.layers.linear_layer.project", self._project)

    def _project(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        self.inputs.append(x)
        return torch.nn.functional.linear(x, weight, bias)


@each_kind
@pytest.mark.parametrize("reverse", [False, True], ids=["forward", "reverse"])
def test_time_major_is_not_copied(kind: Kind, reverse: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    layer, x = kind.layer(reverse=reverse), torch.randn(7, 3, INPUT)
    want, _ = layer(x.transpose(0, 1).contiguous())
    seen = _Seen(monkeypatch)
    y, _ = layer(x.transpose(0, 1))
    assert seen.inputs[0].is_contiguous()
    assert seen.inputs[0].data_ptr() == x.data_ptr()
    assert y.transpose(0, 1).is_contiguous() or not native.available()
    close(y, want)


def _strided(x: Tensor, order: tuple[int, ...], gap: int) -> Tensor:
    """The same numbers, laid out in another order and with holes."""
    wide = torch.full([gap * n for n in x.permute(order).shape], float("nan"), dtype=x.dtype)
    view = wide[tuple(slice(None, None, gap) for _ in order)].permute([order.index(i) for i in range(3)])
    return view.copy_(x)


@given(
    kind=st.sampled_from(EVERY),
    shape=st.tuples(st.integers(0, 4), st.integers(0, 9), st.integers(1, 9), st.integers(1, 17)),
    dtype=st.sampled_from([torch.float32, torch.float64, torch.bfloat16]),
    order=st.permutations(range(3)),
    gap=st.integers(1, 2),
    flags=st.tuples(st.booleans(), st.booleans(), st.booleans()),
    seed=st.integers(0, 99),
)
def test_any_shape_stride_and_dtype(
    kind: Kind,
    shape: tuple[int, int, int, int],
    dtype: torch.dtype,
    order: list[int],
    gap: int,
    flags: tuple[bool, bool, bool],
    seed: int,
) -> None:
    """As the plain layout, values and gradients, with whatever masks.

    In bf16 a product may round to either side of 0, where the slope of g jumps: values alone.
    """
    torch.manual_seed(seed)
    batch, time, width, hidden = shape
    layer = LAYERS[kind.name].layer(width, hidden, **kind.options, reverse=flags[0], dtype=dtype)
    x, h_0 = torch.randn(batch, time, width, dtype=dtype), torch.randn(batch, hidden).to(dtype)
    reset = torch.rand(time, batch).t() < torch.rand(()) if flags[1] else None
    lengths = torch.randint(0, time + 1, (batch,)) if flags[2] else None
    want = _results(layer, x, h_0, reset, lengths)
    got = _results(layer, _strided(x, tuple(order), gap), h_0.t().contiguous().t(), reset, lengths)
    allowed = TOLERANCE[dtype] * torch.finfo(dtype).eps
    for one, other in list(zip(got, want, strict=True))[: 2 if dtype == torch.bfloat16 else None]:
        assert one.dtype == other.dtype
        assert rms(one, other) <= allowed


def _results(layer: Any, x: Tensor, h_0: Tensor, *rest: Tensor | None) -> tuple[Tensor, ...]:
    x, h_0 = x.detach().requires_grad_(), h_0.detach().requires_grad_()
    y, state = layer(x, layer.State(*[h_0 for _ in layer.State._fields]), *rest)
    dx, dh = torch.autograd.grad(y.square().sum() + sum(s.square().sum() for s in state), (x, h_0))
    return y, state.h, dx, dh


@each_kind
def test_expanded_input(kind: Kind) -> None:
    layer, x = kind.layer(), torch.randn(1, 4, INPUT)
    want = layer(x)[0]
    close(layer(x.expand(3, 4, INPUT))[0], want.expand(3, -1, -1))
    close(layer(x[:, :1].expand(1, 4, INPUT))[0][:, :1], want[:, :1])


@each_kind
def test_long_sequences_stay_close(kind: Kind) -> None:
    layer, x = kind.layer(), torch.randn(1, 20_000, INPUT)
    close(layer(x)[0], truth(layer, x))
