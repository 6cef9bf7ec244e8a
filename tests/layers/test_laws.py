"""What every row of the table obeys, in every variant."""

from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from kinds import HIDDEN, INPUT, LAYERS_DEEP, Kind, both_ways, every_kind, run, start, step, truth
from recurra import state
from tools import close, masks

BATCH, TIME = 3, 7


def _x() -> Tensor:
    return torch.randn(BATCH, TIME, INPUT)


def _h(bidirectional: bool = False, batch: int = BATCH) -> Tensor:
    return torch.randn(LAYERS_DEEP * (2 if bidirectional else 1), batch, HIDDEN)


def _segments(reset: Tensor) -> list[tuple[int, int]]:
    """Where one row falls apart; a reset of its first step is a piece of no length before it."""
    marks = reset.nonzero().flatten().tolist()
    return list(pairwise([0, *marks, len(reset)]))


@every_kind
def test_paper(kind: Kind) -> None:
    layer, x, h_0 = kind.layer(), _x(), torch.randn(BATCH, HIDDEN)
    y, last = layer(x, kind.state(h_0))
    want = truth(layer, x, h_0)
    close(y, want)
    close(last.h, want[:, -1])


@every_kind
def test_reverse(kind: Kind) -> None:
    layer, x, h_0 = kind.layer(reverse=True), _x(), torch.randn(BATCH, HIDDEN)
    y, last = layer(x, kind.state(h_0))
    want = truth(layer, x.flip(1), h_0)
    close(y, want.flip(1))
    close(last.h, want[:, -1])


@every_kind
def test_cut_anywhere(kind: Kind) -> None:
    rnn, x = kind.stack(), _x()
    want, want_n = run(rnn, x)
    for cut in range(TIME + 1):
        first, h = run(rnn, x[:, :cut])
        rest, h_n = run(rnn, x[:, cut:], h)
        close(torch.cat([first, rest], 1), want)
        close(h_n, want_n)


@every_kind
@pytest.mark.parametrize("given", [False, True], ids=["start", "given"])
@pytest.mark.parametrize("graph", [False, True], ids=["no_grad", "grad"])
def test_one_token_at_a_time(kind: Kind, given: bool, graph: bool) -> None:
    rnn, x, h = kind.stack(), _x(), _h() if given else None
    want, want_n = run(rnn, x, h)
    ys = []
    for x_t in x.unbind(1):
        with torch.set_grad_enabled(graph):
            y, h = step(rnn, x_t, h)
        ys.append(y)
    close(torch.stack(ys, 1), want)
    close(h, want_n)


@every_kind
@pytest.mark.parametrize("reverse", [False, True], ids=["forward", "reverse"])
def test_future_cannot_reach_the_past(kind: Kind, reverse: bool) -> None:
    layer, x = kind.layer(reverse=reverse), _x()
    y, _ = layer(x)
    for t in range(TIME):
        other = x.clone()
        other[:, t] = torch.randn(BATCH, INPUT)
        past = slice(t + 1, None) if reverse else slice(t)
        changed, _ = layer(other)
        assert changed[:, past].equal(y[:, past])
        assert not changed[:, t].equal(y[:, t])


@every_kind
@both_ways
def test_rows_do_not_mix(kind: Kind, bidirectional: bool) -> None:
    rnn, x, h_0 = kind.stack(bidirectional=bidirectional), _x(), _h(bidirectional)
    reset, lengths = masks(BATCH, TIME, seed=1)
    out, h_n = run(rnn, x, h_0, reset=reset, lengths=lengths)
    x[1], h_0[:, 1], reset[1], lengths[1] = float("nan"), float("nan"), True, TIME
    changed, changed_n = run(rnn, x, h_0, reset=reset, lengths=lengths)
    assert changed[[0, 2]].equal(out[[0, 2]])
    assert changed_n[:, [0, 2]].equal(h_n[:, [0, 2]])


@every_kind
@both_ways
@pytest.mark.parametrize("given", [False, True], ids=["start", "given"])
def test_reset_is_a_fresh_sequence(kind: Kind, bidirectional: bool, given: bool) -> None:
    rnn, x = kind.stack(bidirectional=bidirectional), _x()
    h_0 = _h(bidirectional) if given else None
    reset = torch.zeros(BATCH, TIME, dtype=torch.bool)
    reset[0, 3], reset[1, 0], reset[1, 5], reset[2, 1:3], reset[2, 6] = True, True, True, True, True
    out, h_n = run(rnn, x, h_0, reset=reset)
    for row in range(BATCH):
        pieces = _segments(reset[row])
        alone = [
            _piece(rnn, x[row, begin:end], h_0[:, row] if given else None, i == 0, i == len(pieces) - 1)
            for i, (begin, end) in enumerate(pieces)
        ]
        close(out[row], torch.cat([y for y, _ in alone]))
        ends = [end for y, end in alone if len(y)]
        for i, layer in enumerate(rnn.layers):
            close(h_n[i, row], ends[0 if layer.reverse else -1][i])


def _piece(rnn: Any, x: Tensor, h_0: Tensor | None, first: bool, last: bool) -> tuple[Tensor, Tensor]:
    """A piece of a row alone: a given state enters the first piece forwards, the last one backwards."""
    if h_0 is None:
        return run(rnn, x)
    starts = [start(layer) for layer in rnn.layers]
    fresh = torch.stack([torch.zeros(HIDDEN) if p is None else p for p in starts])
    enters = torch.tensor([[last if layer.reverse else first] for layer in rnn.layers])
    return run(rnn, x, torch.where(enters, h_0, fresh))


@every_kind
@both_ways
@pytest.mark.parametrize("given", [False, True], ids=["start", "given"])
@pytest.mark.parametrize("cutting", [False, True], ids=["whole", "reset"])
def test_lengths_are_the_row_alone(kind: Kind, bidirectional: bool, given: bool, cutting: bool) -> None:
    rnn, x = kind.stack(bidirectional=bidirectional), _x()
    h_0 = _h(bidirectional) if given else None
    lengths = torch.tensor([0, 4, TIME])
    reset = masks(BATCH, TIME, seed=2, rate=0.4)[0] if cutting else None
    x[1, 4:] = float("nan")
    if reset is not None:
        reset[0], reset[1, 4] = True, True  # in the padding, where a reset is none
    out, h_n = run(rnn, x, h_0, lengths=lengths, reset=reset)
    for row, length in enumerate(lengths.tolist()):
        one = slice(row, row + 1)
        cut = None if reset is None else reset[one, :length]
        state_0 = None if h_0 is None else h_0[:, one]
        alone, alone_n = run(rnn, x[one, :length], state_0, reset=cut)
        close(out[one, :length], alone)
        close(h_n[:, one], alone_n)
    assert not out[0].any()
    assert not out[1, 4:].any()


@every_kind
@both_ways
@pytest.mark.parametrize("cutting", [False, True], ids=["whole", "reset"])
def test_every_parameter_receives_a_gradient(kind: Kind, bidirectional: bool, cutting: bool) -> None:
    rnn = kind.stack(bidirectional=bidirectional)
    reset = masks(BATCH, TIME, seed=3)[0] if cutting else None
    out, h_n = run(rnn, _x(), reset=reset)
    (out.square().sum() + h_n.square().sum()).backward()
    for name, p in rnn.named_parameters():
        assert p.grad is not None, name
        assert p.grad.isfinite().all(), name
        assert (p.grad != 0).all(), name


@every_kind
@both_ways
def test_gradient_of_the_initial_state_and_through_the_final_one(kind: Kind, bidirectional: bool) -> None:
    rnn = kind.stack(bidirectional=bidirectional)
    x, h_0 = _x().requires_grad_(), _h(bidirectional).requires_grad_()
    _, h_n = run(rnn, x, h_0)
    dx, dh = torch.autograd.grad(h_n.square().sum(), (x, h_0))
    assert (dx[:, 0] != 0).all()
    assert (dh != 0).all()


@every_kind
def test_state_survives_a_file(kind: Kind, tmp_path: Path) -> None:
    layer, x = kind.layer(), _x()
    want, _ = layer(x)
    _, kept = layer(x[:, :4])
    state.save(kept, tmp_path / "state.safetensors")
    rest, _ = layer(x[:, 4:], state.load(tmp_path / "state.safetensors"))
    close(rest, want[:, 4:])


@every_kind
def test_bf16(kind: Kind) -> None:
    layer, x = kind.layer(dtype=torch.bfloat16), torch.randn(BATCH, 200, INPUT, dtype=torch.bfloat16)
    h_0 = torch.randn(BATCH, HIDDEN)
    y, last = layer(x, kind.state(h_0))
    assert (y.dtype, last.h.dtype) == (torch.bfloat16, torch.float32)
    close(y, truth(layer, x, h_0))


@every_kind
@both_ways
def test_saturated(kind: Kind, bidirectional: bool) -> None:
    """Inputs of 1e4 shut and open every gate; nothing becomes NaN."""
    rnn, x = kind.stack(bidirectional=bidirectional), (1e4 * _x()).requires_grad_()
    out, h_n = run(rnn, x, -_h(bidirectional).abs())
    (dx,) = torch.autograd.grad(out.sum() + h_n.sum(), x)
    assert out.isfinite().all()
    assert dx.isfinite().all()
