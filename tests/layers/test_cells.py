"""recurra.GRU and recurra.LSTM are nn.GRU and nn.LSTM: same draws, outputs, states, gradients, weights."""

import re
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence

import recurra
from tools import close

OURS: dict[str, Any] = {"GRU": recurra.GRU, "LSTM": recurra.LSTM}
each = pytest.mark.parametrize("name", list(OURS))
SHAPES: list[dict[str, Any]] = [
    {},
    {"num_layers": 2, "bidirectional": True, "batch_first": True},
    {"num_layers": 3, "bias": False},
]
shapes = pytest.mark.parametrize("options", SHAPES, ids=["one", "bidirectional", "no bias"])


def _flat(result: Any) -> list[Tensor]:
    """The tensors of (out, h_n), packed or not, a pair or not."""
    if isinstance(result, Tensor):
        return [result] if result.is_floating_point() else []
    return [x for part in result if part is not None for x in _flat(part)]


def _state(name: str, options: dict[str, Any]) -> Any:
    depth = options.get("num_layers", 1) * (2 if options.get("bidirectional") else 1)
    h, c = (torch.randn(depth, 4, 9).requires_grad_() for _ in range(2))
    return h if name == "GRU" else (h, c)


def _meets(ours: Any, peer: Any, x: Tensor, hx: Any, packed: Any) -> None:
    """Outputs, last states, gradients of input, states and all weights."""
    runs = []
    for rnn in (ours, peer):
        out = _flat(rnn(packed(x), hx))
        weights = dict(rnn.named_parameters())
        seeds = [x.detach().sin() for x in out]
        runs.append((out, torch.autograd.grad(out, (x, *_flat(hx), *weights.values()), seeds)))
    (got, grads), (want, wanted) = runs
    for one, other in zip((*got, *grads), (*want, *wanted), strict=True):
        close(one, other)


@each
@shapes
@pytest.mark.parametrize("packing", [False, True], ids=["padded", "packed"])
def test_torch(name: str, options: dict[str, Any], packing: bool) -> None:
    torch.manual_seed(1)
    ours = OURS[name](5, 9, **options)
    torch.manual_seed(1)
    peer = getattr(nn, name)(5, 9, **options)
    first = options.get("batch_first", False)
    x = torch.randn(4, 7, 5) if first else torch.randn(7, 4, 5)

    def packed(x: Tensor) -> Any:
        lengths = torch.tensor([3, 7, 1, 5])
        return pack_padded_sequence(x, lengths, batch_first=first, enforce_sorted=False) if packing else x

    _meets(ours, peer, x.requires_grad_(), _state(name, options), packed)


@each
@shapes
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_from_torch(name: str, options: dict[str, Any], dtype: torch.dtype) -> None:
    peer = getattr(nn, name)(5, 9, **options, dtype=dtype).eval()
    ours = OURS[name].from_torch(peer)
    x = torch.randn(4, 7, 5, dtype=dtype)
    for got, want in zip(_flat(ours(x)), _flat(peer(x)), strict=True):
        close(got, want)
    assert not ours.training
    assert repr(ours).splitlines()[1].strip() == repr(peer).split("(", 1)[1][:-1]
    with torch.no_grad():
        peer.weight_ih_l0.zero_()
    assert ours.layers[0].weight_ih.any(), "the weights are shared, not copied"


@each
def test_from_torch_refuses(name: str) -> None:
    with pytest.raises(TypeError, match=f"module must be an nn.{name}, got RNN"):
        OURS[name].from_torch(nn.RNN(5, 9))
    with pytest.raises(ValueError, match="proj_size=3"):
        recurra.LSTM.from_torch(nn.LSTM(5, 9, proj_size=3))


def test_lstm_wants_a_pair() -> None:
    x, h = torch.randn(7, 4, 5), torch.randn(2, 4, 9)
    rnn = recurra.LSTM(5, 9, 2)
    for call in (lambda: rnn(x, h), lambda: rnn.step(x[0], h)):
        with pytest.raises(
            TypeError, match=re.escape("hx must be a pair (h_0, c_0), got a tensor [2, 4, 9]")
        ):
            call()
    with pytest.raises(ValueError, match=re.escape("h_0 must be [layers * directions, batch, hidden]")):
        rnn(x, (h[:1], h[:1]))
    with pytest.raises(ValueError, match="c_0 must be like input"):
        rnn(x, (h, h.double()))
