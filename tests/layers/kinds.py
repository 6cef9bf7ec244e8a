"""Every row of the table in every variant, one signature for their states, and the truth in fp64."""

from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn

from recurra.layers.cell import CellLayer
from recurra.layers.linear_layer import LinearLayer
from recurra.layers.table import LAYERS
from recurra.ops.gated import CANDIDATES

INPUT, HIDDEN, LAYERS_DEEP = 5, 6, 2
PEERS: dict[str, Any] = {"mingru": nn.GRU, "minlstm": nn.LSTM, "gru": nn.GRU, "lstm": nn.LSTM}


class Kind(NamedTuple):
    """A row and its options."""

    name: str
    options: dict[str, Any]

    def layer(self, **more: Any) -> Any:
        return LAYERS[self.name].layer(INPUT, HIDDEN, **self.options, **more)

    def stack(self, num_layers: int = LAYERS_DEEP, **more: Any) -> Any:
        """Two layers, batch first, with the differences between nn.GRU and nn.LSTM hidden."""
        return LAYERS[self.name].module(INPUT, HIDDEN, num_layers, batch_first=True, **self.options, **more)

    def state(self, h: Tensor) -> Any:
        """The layer's state, h in every part of it."""
        kind = LAYERS[self.name].layer.State
        return kind(*[h for _ in kind._fields])

    @property
    def learned(self) -> dict[str, bool]:
        """The option of a learned start, where there is one."""
        return {"learned_state": True} if self in GATED else {}


def variants(name: str) -> list[dict[str, Any]]:
    """Candidate x learned start, and x normalised where there is such a choice."""
    if not name.startswith("min"):
        return [{}]
    gates: list[dict[str, Any]] = [{"normalized": n} for n in (True, False)] if name == "minlstm" else [{}]
    return [
        {"candidate": candidate, "learned_state": learned, **gate}
        for candidate in CANDIDATES
        for learned in (False, True)
        for gate in gates
    ]


def _id(kind: Kind) -> str:
    said = [kind.options["candidate"]] if kind.options else []
    said += ["learned"] if kind.options.get("learned_state") else []
    said += ["raw"] if not kind.options.get("normalized", True) else []
    return "-".join((kind.name, *said))


# What torch.nn's contract stands for; the laws of the others are those of their op and their block.
STACKED = [name for name, row in LAYERS.items() if row.module]
EVERY = [Kind(name, options) for name in STACKED for options in variants(name)]
# One of each name, for what does not depend on the gates.
EACH = [Kind(name, {}) for name in STACKED]
GATED = [kind for kind in EACH if kind.name.startswith("min")]
every_kind = pytest.mark.parametrize("kind", EVERY, ids=_id)
every_gated = pytest.mark.parametrize("kind", [kind for kind in EVERY if kind.options], ids=_id)
each_gated = pytest.mark.parametrize("kind", GATED, ids=lambda kind: kind.name)
each_kind = pytest.mark.parametrize("kind", EACH, ids=lambda kind: kind.name)
both_ways = pytest.mark.parametrize("bidirectional", [False, True], ids=["forward", "bidirectional"])


def _taken(rnn: Any, h: Tensor | None) -> Any:
    """What the module takes for one state: a pair of the same, or the two that lie side by side in it."""
    if h is None or rnn.STATE == ("hx",):
        return h
    return tuple(h.split(rnn.hidden_size, -1)) if h.shape[-1] > rnn.hidden_size else (h, h)


def _joined(rnn: Any, h_n: Any) -> Tensor:
    """A pair of states as one: c alone where h is the same."""
    return {"hx": lambda: h_n, "c_0": lambda: h_n[1], "h_0": lambda: torch.cat(h_n, -1)}[rnn.STATE[0]]()


def run(rnn: Any, x: Tensor, h_0: Tensor | None = None, **masks: Tensor | None) -> tuple[Tensor, Tensor]:
    """(out, h_n), a pair of states being one here."""
    out, h_n = rnn(x, _taken(rnn, h_0), **masks)
    return out, _joined(rnn, h_n)


def step(rnn: Any, x_t: Tensor, h: Tensor | None) -> tuple[Tensor, Tensor]:
    out, h_n = rnn.step(x_t, _taken(rnn, h))
    return out, _joined(rnn, h_n)


def start(layer: Any) -> Tensor | None:
    """The learned start, None where there is none."""
    return layer.learned_start() if isinstance(layer, LinearLayer) else None


def _candidate(k: Tensor, name: str) -> Tensor:
    return {"positive": k.clamp(min=0) + k.clamp(max=0).sigmoid(), "linear": k, "tanh": k.tanh()}[name]


def _torch_truth(layer: CellLayer, x: Tensor, h: Tensor | None) -> Tensor:
    options = {"bias": layer.bias_ih is not None, "batch_first": True, "dtype": torch.float64}
    peer = PEERS[layer.CELL](layer.input_size, layer.hidden_size, **options)
    peer.load_state_dict({f"{name}_l0": p.detach().double() for name, p in layer.named_parameters()})
    hx = None if h is None else h.detach().double()[None]
    return peer(x.detach().double(), (hx, hx) if layer.CELL == "lstm" and hx is not None else hx)[0].detach()


def truth(layer: Any, x: Tensor, h: Tensor | None = None) -> Tensor:
    """Every h of one row or many, in fp64: the paper's formulas, one step after the other, or torch's."""
    if isinstance(layer, CellLayer):
        return _torch_truth(layer, x, h)
    weight, bias = (None if p is None else p.detach().double() for p in (layer.weight_ih, layer.bias_ih))
    parts = torch.nn.functional.linear(x.detach().double(), weight, bias).chunk(layer.PARTS, -1)
    k, *gates = parts
    if len(gates) == 1:
        a, i = (-gates[0]).sigmoid(), gates[0].sigmoid()
    else:
        a, i = (g.sigmoid() for g in gates)
        if layer.normalized:
            a, i = a / (a + i), i / (a + i)
    h = torch.zeros_like(k[:, 0]) if h is None else h.detach().double()
    hs = []
    for t in range(x.shape[1]):
        h = a[:, t] * h + i[:, t] * _candidate(k[:, t], layer.candidate)
        hs.append(h)
    return torch.stack(hs, 1)
