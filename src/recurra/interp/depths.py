"""Lenses on a text: what training them reads, what is held out, and what each block predicts of that."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
from torch import Tensor

from recurra.bench.report import Row
from recurra.interp.lens import Lens
from recurra.interp.tuning import Recipe, by_depth
from recurra.tasks.losses import device_of
from recurra.tasks.windows import Windows, gather

__all__ = ["feed", "held_out", "rows"]

# Tokens that are read at a time.
CHUNK = 8192


def feed(model: Any, tokens: Any, recipe: Recipe) -> Callable[[int], Tensor]:
    """The tokens of a training step, as `fit` asks for them."""
    order = Windows(len(tokens), recipe.context, recipe.rows, seed=0)
    return lambda step: gather(tokens, order.starts(step), recipe.context)[:, :-1].to(device_of(model))


def held_out(model: Any, tokens: Any, context: int, limit: int) -> Iterator[Tensor]:
    """Sequences of context + 1, `limit` at most, spread over the text as those of a run's evaluations."""
    count = (len(tokens) - 1) // context
    chosen = np.linspace(0, count - 1, min(limit, count)).astype(np.int64)
    size = max(1, CHUNK // context)
    for begin in range(0, len(chosen), size):
        yield gather(tokens, chosen[begin : begin + size] * context, context).to(device_of(model))


def rows(
    lenses: Mapping[str, Lens], batches: Callable[[], Iterator[Tensor]], bytes_per_token: float
) -> list[Row]:
    """A row a block, the model's own last: bits per byte and KL, in the same, of each lens by its name."""
    found: dict[Any, Row] = {}
    for name, lens in lenses.items():
        *depths, model = by_depth(lens, batches(), bytes_per_token)
        for depth in depths:
            said = {f"{name} bits/byte": depth.bits_per_byte, f"{name} KL": depth.kl}
            found[depth.block] = found.get(depth.block, {"block": depth.block}) | said
        own = {f"{name} bits/byte": model.bits_per_byte, f"{name} KL": model.kl}
        found["model"] = found.pop("model", {"block": "model"}) | own
    return list(found.values())
