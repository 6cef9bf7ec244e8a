"""Every row of the table in every variant, one signature for their states, and the truth in fp64."""

from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor

from recurra.layers.linear_layer import LinearLayer
from recurra.layers.table import LAYERS
from recurra.ops.gated import CANDIDATES

INPUT, HIDDEN, LAYERS_DEEP = 5, 6, 2


class Kind(NamedTuple):
    """A row and its options."""

    name: str
    options: dict[str, Any]

    def layer(self, **more: Any) -> Any:
        return LAYERS[self.name].layer(INPUT, HIDDEN, **self.options, **more)

    def stack(self, num_layers: int = LAYERS_DEEP, **more: Any) -> Any:
        """Two layers, batch first, with the differences between nn.GRU and nn.LSTM hidden."""
        return LAYERS[self.name].module(INPUT, HIDDEN, num_layers, batch_first=True, **self.options, **more)


def variants(name: str) -> list[dict[str, Any]]:
    """Candidate x learned start, and x normalised where there is such a choice."""
    gates: list[dict[str, Any]] = [{"normalized": n} for n in (True, False)] if name == "minlstm" else [{}]
    return [
        {"candidate": candidate, "learned_state": learned, **gate}
        for candidate in CANDIDATES
        for learned in (False, True)
        for gate in gates
    ]


def _id(kind: Kind) -> str:
    said = [kind.options["candidate"]]
    said += ["learned"] if kind.options["learned_state"] else []
    said += ["raw"] if not kind.options.get("normalized", True) else []
    return "-".join((kind.name, *said))


EVERY = [Kind(name, options) for name in LAYERS for options in variants(name)]
# One of each name, for what does not depend on the gates.
EACH = [Kind(name, {}) for name in LAYERS]
every_kind = pytest.mark.parametrize("kind", EVERY, ids=_id)
each_kind = pytest.mark.parametrize("kind", EACH, ids=lambda kind: kind.name)
both_ways = pytest.mark.parametrize("bidirectional", [False, True], ids=["forward", "bidirectional"])


def run(rnn: Any, x: Tensor, h_0: Tensor | None = None, **masks: Tensor | None) -> tuple[Tensor, Tensor]:
    """(out, h_n), a pair of states being one here."""
    pair = rnn.STATE == "c_0"
    out, h_n = rnn(x, (h_0, h_0) if pair and h_0 is not None else h_0, **masks)
    return out, h_n[1] if pair else h_n


def step(rnn: Any, x_t: Tensor, h: Tensor | None) -> tuple[Tensor, Tensor]:
    pair = rnn.STATE == "c_0"
    out, h_n = rnn.step(x_t, (h, h) if pair and h is not None else h)
    return out, h_n[1] if pair else h_n


def _candidate(k: Tensor, name: str) -> Tensor:
    return {"positive": k.clamp(min=0) + k.clamp(max=0).sigmoid(), "linear": k, "tanh": k.tanh()}[name]


def truth(layer: LinearLayer, x: Tensor, h: Tensor | None = None) -> Tensor:
    """Every h of one row or many, from the paper's formulas, one step after the other in fp64."""
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
