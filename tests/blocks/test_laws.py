"""What every block of the table obeys, with and without its optional parts."""

from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor

from ops.recurrences import NATIVE
from recurra import state
from recurra.blocks.table import BLOCKS, build, configurable, describe
from recurra.ops import native
from recurra.state import KVState
from tools import close, leaves, masks, same_state, wake

BATCH, TIME, WIDTH = 3, 7, 6


class Kind(NamedTuple):
    """A row of the table and its options."""

    name: str
    options: dict[str, Any]

    def block(self) -> Any:
        row = BLOCKS[self.name]
        return wake(row.block(row.config(width=WIDTH, **row.fixed, **self.options)))


def _bare(name: str) -> dict[str, Any]:
    """Without what can be left out, and with another size or norm, as far as the block has such a choice."""
    conv = 1 if name in ("mamba", "mlstm") else 0  # of which the conv is no option
    bare = {"conv": conv, "mlp": 0.0, "expansion": 1.5, "norm": "layer", "window": 3}
    of_layer = {
        "mingru": {"learned_state": True},
        "minlstm": {"learned_state": True, "normalized": False, "input_bias": -1.0},
        "slstm": {"heads": 2},
        "mamba": {"bias": True, "eps": 1e-3},
        "rwkv4": {"eps": 1e-3},
        "transformer": {"heads": 3, "kv_heads": 1, "qkv_bias": True, "out_bias": True, "eps": 1e-3},
        "xlstm_large": {"heads": 2, "keys": 0.7, "input_bias": 0.0},
    }
    known = {key: value for key, value in bare.items() if key in configurable(BLOCKS[name])}
    return known | of_layer.get(name, {})


# Its norm lifts what a head reads: where query and key nearly cancel, as a first step can, roundings with it.
LOOSE = {"mlstm": 32.0, "xlstm_large": 32.0}
EVERY = [Kind(name, options) for name in BLOCKS for options in ({}, _bare(name))]
every = pytest.mark.parametrize("kind", EVERY, ids=lambda kind: kind.name + ("-bare" if kind.options else ""))


def _x() -> Tensor:
    return torch.randn(BATCH, TIME, WIDTH)


def _given(block: Any) -> Any:
    """A state that a few steps have left."""
    return block(torch.randn(BATCH, 4, WIDTH))[1]


@every
@pytest.mark.parametrize("given", [False, True], ids=["fresh", "given"])
def test_cut_anywhere(kind: Kind, given: bool) -> None:
    block, x = kind.block(), _x()
    begin = _given(block) if given else None
    want, end = block(x, begin)
    for cut in range(TIME + 1):
        first, middle = block(x[:, :cut], begin)
        rest, last = block(x[:, cut:], middle)
        close(torch.cat([first, rest], 1), want)
        same_state(last, end)


@every
@pytest.mark.parametrize("graph", [False, True], ids=["no_grad", "grad"])
@pytest.mark.parametrize("given", [False, True], ids=["fresh", "given"])
def test_one_at_a_time(kind: Kind, graph: bool, given: bool) -> None:
    block, x, ys = kind.block(), _x(), []
    now = _given(block) if given else None
    want, end = block(x, now)
    for x_t in x.unbind(1):
        with torch.set_grad_enabled(graph):
            y, now = block.step(x_t, now)
        ys.append(y)
    close(torch.stack(ys, 1), want)
    same_state(now, end)


@every
def test_future_cannot_reach_the_past(kind: Kind) -> None:
    block, x = kind.block(), _x()
    y, _ = block(x)
    for t in range(TIME):
        other = x.clone()
        other[:, t] = torch.randn(BATCH, WIDTH)
        changed, _ = block(other)
        assert changed[:, :t].equal(y[:, :t])
        assert not changed[:, t].equal(y[:, t])


@every
def test_rows_do_not_mix(kind: Kind) -> None:
    block, x = kind.block(), _x()
    reset, lengths = masks(BATCH, TIME, seed=1)
    y, end = block(x, None, reset, lengths)
    x[1], reset[1], lengths[1] = float("nan"), True, TIME
    changed, last = block(x, None, reset, lengths)
    keep = torch.tensor([0, 2])
    assert changed[keep].equal(y[keep])
    assert all(a[keep].equal(b[keep]) for a, b in zip(leaves(last), leaves(end), strict=True))


@every
def test_reset_is_a_fresh_sequence(kind: Kind) -> None:
    block, x = kind.block(), _x()
    begin, reset = _given(block), torch.zeros(BATCH, TIME, dtype=torch.bool)
    reset[:, 3] = True
    y, end = block(x, begin, reset)
    first, _ = block(x[:, :3], begin)
    rest, last = block(x[:, 3:])
    close(y, torch.cat([first, rest], 1))
    same_state(end, last)


def _behind(block: Any, x: Tensor, begin: Any, at: int) -> tuple[Tensor, Tensor, Any]:
    """What comes behind a reset: y, its gradient by x, and the state."""
    x, reset = x.clone().requires_grad_(), torch.zeros(BATCH, TIME, dtype=torch.bool)
    reset[:, at] = True
    y, end = block(x, begin, reset)
    loss = y[:, at:].square().sum() + sum(leaf.abs().square().sum() for leaf in leaves(end))
    (dx,) = torch.autograd.grad(loss, x)
    return y[:, at:], dx[:, at:], end


@every
@pytest.mark.parametrize("form", ["plain", pytest.param("kernels", marks=NATIVE)])
def test_no_nan_crosses_a_reset(kind: Kind, form: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither that of an input nor that of a state: forwards, and with the gradient of what comes behind."""
    if form == "plain":
        monkeypatch.setattr(native, "takes", lambda *_: False)
    block, x = kind.block(), _x()
    begin = state.detach(_given(block))
    bad = state.apply(lambda s: s if s.dtype == torch.int64 else torch.full_like(s, torch.nan), begin)
    for at in (3, 4):
        y, dx, end = _behind(block, x, begin, at)
        x_bad = torch.cat([torch.full_like(x[:, :at], torch.nan), x[:, at:]], 1)
        y_bad, dx_bad, end_bad = _behind(block, x_bad, bad, at)
        close(y_bad, y)
        close(dx_bad, dx)
        same_state(end_bad, end)


@every
def test_lengths_are_the_row_alone(kind: Kind) -> None:
    block, x, lengths = kind.block(), _x(), torch.tensor([0, 4, TIME])
    begin = _given(block)
    x[1, 4:] = float("nan")
    y, end = block(x, begin, None, lengths)
    for row, length in enumerate(lengths.tolist()):
        one = slice(row, row + 1)
        alone, last = block(x[one, :length], state.select(begin, one))
        close(y[one, :length], alone)
        same_state(state.select(end, one), last)
        assert not y[row, length:].any()


@every
def test_every_parameter_and_the_state_receive_a_gradient(kind: Kind) -> None:
    block, begin = kind.block(), None
    begin = state.detach(_given(block))
    parts = [leaf.requires_grad_() for leaf in leaves(begin) if leaf.dtype != torch.int64]
    y, end = block(_x(), begin)
    y = y + block(_x())[0]  # which reads a start that is learned
    (y.square().sum() + sum(leaf.abs().square().sum() for leaf in leaves(end))).backward()
    for name, p in [*block.named_parameters(), *((f"state {i}", s) for i, s in enumerate(parts))]:
        assert p.grad is not None, name
        assert p.grad.isfinite().all(), name
        assert not p.numel() or p.grad.any(), name


@every
def test_state_survives_a_file(kind: Kind, tmp_path: Path) -> None:
    block, x = kind.block(), _x()
    want, _ = block(x)
    _, kept = block(x[:, :4])
    state.save(kept, tmp_path / "s")
    rest, _ = block(x[:, 4:], state.load(tmp_path / "s"))
    close(rest, want[:, 4:])


@every
def test_state_has_one_shape(kind: Kind) -> None:
    """Fresh or carried, of a step or of a sequence: a state of one row can stand beside any other."""
    block, x = kind.block(), _x()
    ends = [block(x)[1], block.step(x[:, 0])[1], block(x[:, :0])[1]]
    if not isinstance(ends[0], KVState):  # which grows: it is brought to one shape where rows meet
        shapes = [[leaf.shape for leaf in leaves(end)] for end in ends]
        assert shapes[0] == shapes[1] == shapes[2]
    together = state.concatenate(ends)
    want = torch.cat([block(x, end)[0] for end in ends])
    close(block(torch.cat([x] * 3), together)[0], want)
    close(block.step(torch.cat([x[:, 0]] * 3), together)[0], want[:, 0])


@every
def test_compiles_whole(kind: Kind) -> None:
    torch._dynamo.reset()
    block, x, (reset, lengths) = kind.block(), _x(), masks(BATCH, TIME, seed=4)
    compiled = torch.compile(block, backend="aot_eager", fullgraph=True)
    want, end = block(x, None, reset, lengths)
    got, last = compiled(x, None, reset, lengths)
    close(got, want)
    same_state(last, end)
    got.sum().backward()
    grads = [p.grad.clone() for p in block.parameters()]
    block.zero_grad()
    want.sum().backward()
    for p, grad in zip(block.parameters(), grads, strict=True):
        close(grad, p.grad)


@every
def test_bf16(kind: Kind) -> None:
    """Each of the few sums and products of a block rounds once: within 8 eps of fp32, over 200 steps."""
    block, x = kind.block(), torch.randn(BATCH, 200, WIDTH)
    narrow = kind.block().bfloat16()
    narrow.load_state_dict(block.state_dict())
    block.load_state_dict(narrow.state_dict())
    want, _ = block(x.bfloat16().float())
    got, end = narrow(x.bfloat16())
    assert got.dtype == torch.bfloat16
    kept = torch.bfloat16 if isinstance(end, KVState) else torch.float32
    assert all(leaf.real.dtype == kept for leaf in leaves(end) if leaf.dtype != torch.int64)
    close(got, want, LOOSE.get(kind.name, 8))


@every
def test_autocast(kind: Kind) -> None:
    block, x = kind.block(), _x()
    want, _ = block(x)
    with torch.autocast("cpu", torch.bfloat16):
        got, end = block(x)
        y, _ = block.step(x[:, 0])
    assert got.dtype == torch.float32
    assert all(leaf.real.dtype == torch.float32 for leaf in leaves(end) if leaf.dtype != torch.int64)
    bound = LOOSE.get(kind.name, 8) * torch.finfo(torch.bfloat16).eps / torch.finfo(torch.float32).eps
    close(got, want, bound)
    close(y, want[:, 0], bound)


@every
def test_dropout_acts_while_training(kind: Kind) -> None:
    block, x = Kind(kind.name, {**kind.options, "dropout": 0.5}).block(), _x()
    assert not block(x)[0].equal(block(x)[0])
    block.eval()
    assert block(x)[0].equal(block(x)[0])
    assert block.step(x[:, 0])[0].equal(block.step(x[:, 0])[0])


@every
def test_described_and_built_anew(kind: Kind) -> None:
    block = kind.block()
    again = build(describe(block))
    assert describe(again) == describe(block)
    assert describe(again)["block"] == kind.name
    again.load_state_dict(block.state_dict())
    x = _x()
    assert again(x)[0].equal(block(x)[0])


@every
def test_errors_name_the_argument(kind: Kind) -> None:
    block = kind.block()
    with pytest.raises(ValueError, match=r"x must be \[batch, time, 6\], got \[3, 7, 5\]"):
        block(torch.randn(3, 7, 5))
    with pytest.raises(ValueError, match=r"x must be \[batch, 6\], got \[3, 7, 6\]"):
        block.step(torch.randn(3, 7, 6))


WRONG: dict[str, dict[str, Any]] = {
    "width": {"width": 0},
    "expansion": {"expansion": 0.01},
    "conv": {"conv": -1},
    "mlp": {"mlp": float("nan")},
    "norm": {"norm": "batch"},
    "dropout": {"dropout": 1.0},
    "candidate": {"candidate": "none"},
    "layer": {"layer": "aaren"},
}


@pytest.mark.parametrize(("name", "field"), [("gru", "learned_state"), ("mingru", "normalized")])
def test_choices_that_a_layer_does_not_have(name: str, field: str) -> None:
    row = BLOCKS[name]
    with pytest.raises(ValueError, match=f"{field} is not for layer '{name}', but for "):
        row.config(width=WIDTH, **row.fixed, **{field: field == "learned_state"})


@pytest.mark.parametrize("field", list(WRONG))
def test_wrong_configs(field: str) -> None:
    with pytest.raises(ValueError, match=field):
        BLOCKS["mingru"].config(**{"width": WIDTH, **WRONG[field]})


def test_strict_reading() -> None:
    good = describe(EVERY[0].block())
    for given, said in (
        ({**good, "extra": 1}, "unknown key 'extra'"),
        ({k: v for k, v in good.items() if k != "conv"}, "key 'conv' is missing"),
        ({**good, "conv": 4.0}, "key 'conv' must be of type int, got 4.0"),
        ({**good, "conv": True}, "key 'conv' must be of type int, got True"),
        ({**good, "layer": "gru"}, "unknown key 'layer'"),
        ({**good, "block": "none"}, "key 'block' must be one of"),
        ({**good, "block": []}, "key 'block' must be one of"),
    ):
        with pytest.raises(ValueError, match=said):
            build(given)
