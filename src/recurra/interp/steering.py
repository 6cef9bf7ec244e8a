"""Steering: vectors added to what passes in a model, or to its states, and their files.

Contrastive activation addition (arXiv 2312.06681) as "Does Transformer Interpretability Transfer to RNNs?"
(arXiv 2404.05971) uses it, of which also the steering of states.
"""

import json
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from recurra.interp.contents import moved
from recurra.interp.lens import unembedding_hash
from recurra.interp.places import intervene, subject
from recurra.interp.subject import Place, State
from recurra.models.files import write_alone

__all__ = ["load_vectors", "save_vectors", "steer"]

_KEY = "recurra_steering"
Start = int | Sequence[int]


class _Adding:
    """x + by at the positions from start to end, counted over the calls."""

    def __init__(self, by: Tensor, start: Start, end: int | None) -> None:
        self._by, self._start = by, torch.tensor(start).view(-1, 1)
        self._end, self._read = math.inf if end is None else end, 0

    def __call__(self, x: Tensor) -> Tensor:
        if self._by.shape != x.shape[-1:]:
            raise ValueError(f"vectors must be [{x.shape[-1]}] here, got {list(self._by.shape)}")
        time = x.shape[1] if x.ndim == 3 else 1
        at = torch.arange(self._read, self._read + time)
        self._read += time
        chosen = ((at >= self._start) & (at < self._end)).to(x.device)
        more = chosen[..., None] * self._by.to(x)
        return x + (more if x.ndim == 3 else more[:, 0])


@contextmanager
def steer(
    model: Any,
    vectors: Mapping[Place, Tensor],
    multiplier: float,
    state: State | None = None,
    start: Start = 0,
    end: int | None = None,
) -> Iterator[State | None]:
    """In this context multiplier * vector is added at each place; gives the state to go on from.

    At blocks and layers: to each position from `start` (a number, or one a row) to in front of `end`, counted
    over all calls from the beginning of the context; in forward, step and `generate` alike. In states: once,
    to the contents of `state`, which the recurrence then forgets as it forgets all else; what is given stays
    as it is. Raises ValueError where a state is to be steered and none is given, or is of attention.
    """
    whole = subject(model)
    with ExitStack() as stack:
        for place, vector in vectors.items():
            if place.kind != "state":
                stack.enter_context(intervene(whole, place, _Adding(multiplier * vector, start, end)))
            elif state is None:
                raise ValueError(f"state must be given to steer that of block {place.block}, got None")
            else:
                state = moved(whole, state, place.block, multiplier * vector)
        yield state


def save_vectors(model: Any, vectors: Mapping[Place, Tensor], path: str | os.PathLike[str]) -> None:
    """Write vectors to one safetensors file, with the hash of the model's unembedding."""
    tensors = {f"{p.kind} {p.block}": v.detach().cpu().contiguous() for p, v in vectors.items()}
    about = {"unembedding": unembedding_hash(subject(model))}
    write_alone(Path(path), save(tensors, metadata={_KEY: json.dumps(about)}))


def load_vectors(path: str | os.PathLike[str], model: Any) -> dict[Place, Tensor]:
    """What `save_vectors` wrote, for the model that they were found in.

    Raises ValueError, naming the file, where it holds no such vectors, or those of another model.
    """
    whole = subject(model)
    try:
        with safe_open(path, framework="pt", device=str(whole.unembedding.device)) as f:
            given = json.loads((f.metadata() or {})[_KEY])["unembedding"]
            named = {tuple(name.split(" ")): f.get_tensor(name) for name in f.keys()}  # noqa: SIM118
            vectors = {Place(kind, int(block)): vector for (kind, block), vector in named.items()}
    except (SafetensorError, KeyError, RuntimeError, TypeError, ValueError) as e:
        raise ValueError(f"{os.fspath(path)} holds no steering vectors of recurra: {e!r}") from e
    if given != unembedding_hash(whole):
        raise ValueError(f"{os.fspath(path)} is of another model: its unembedding is not this one's")
    for place in vectors:
        whole.block(place)
    return vectors
