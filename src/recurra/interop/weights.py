"""Tensors of others: out of their files, and into a model by the rows of a table, or back."""

import re
from collections.abc import Iterable, Mapping
from functools import reduce
from pathlib import Path
from typing import Any, NamedTuple

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor

from recurra.interop.family import Row
from recurra.models.files import read_json

__all__ = ["files_of", "fill", "named", "read"]

_INDEX = ".index.json"
# The names of the files of a folder, those of safetensors first.
_WHOLE = ("model.safetensors", "pytorch_model.bin")

Tensors = dict[str, Tensor]


def files_of(folder: Path) -> list[Path]:
    """The files that hold a checkpoint. Raises FileNotFoundError, or ValueError for an index that is none."""
    for whole in _WHOLE:
        if (folder / whole).is_file():
            return [folder / whole]
        if (index := folder / (whole + _INDEX)).is_file():
            return [folder / name for name in _shards(index)]
    raise FileNotFoundError(f"{folder} holds none of {', '.join(_WHOLE)}, nor an index of their parts")


def _shards(index: Path) -> list[str]:
    where = read_json(index, index.read_bytes()).get("weight_map")
    names = sorted(set(where.values())) if isinstance(where, dict) else []
    if not names or any(Path(name).name != name for name in names):
        raise ValueError(f"{index}: key 'weight_map' must name files beside it")
    return names


def read(paths: Iterable[Path]) -> Tensors:
    """All tensors of safetensors files, or of those of torch.save, in which nothing but tensors may lie.

    Raises ValueError or FileNotFoundError that names the file.
    """
    found: Tensors = {}
    for path in paths:
        if not path.is_file():
            raise FileNotFoundError(f"{path} is missing")
        tensors = _safe(path) if path.suffix == ".safetensors" else _saved(path)
        if twice := found.keys() & tensors.keys():
            raise ValueError(f"{path}: {min(twice)} is in another file too")
        found |= tensors
    return found


def _safe(path: Path) -> Tensors:
    try:
        return safetensors.torch.load_file(path)
    except (SafetensorError, KeyError, RuntimeError, TypeError, ValueError) as e:
        raise ValueError(f"{path} is not a safetensors file: {e!r}") from e


def _saved(path: Path) -> Tensors:
    try:
        tensors = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as e:  # whatever unpickling raises
        raise ValueError(f"{path} is not a file of tensors alone: {e}") from e
    if not isinstance(tensors, Mapping) or not all(isinstance(x, Tensor) for x in tensors.values()):
        raise ValueError(f"{path} must hold tensors by their names, got {type(tensors).__name__}")
    return dict(tensors)


class _Place(NamedTuple):
    """A parameter of a model: its row, the number of its block or "", and the config of that."""

    row: Row
    number: str
    config: Any

    def split(self, x: Tensor) -> Tensors:
        """Their tensors, by their names, of ours."""
        names = [name.format(self.number) for name in self.row.theirs]
        return dict(zip(names, self.row.split(x, self.config), strict=True))


def _places(rows: Mapping[str, Row], model: Any) -> dict[str, _Place]:
    def place(name: str) -> _Place:
        if (found := re.match(r"blocks\.(\d+)\.", name)) is None:
            return _Place(rows[name], "", None)
        row = rows[name.replace(found[0], "blocks.{}.", 1)]
        return _Place(row, found[1], model.blocks[int(found[1])].config)

    return {name: place(name) for name in model.state_dict()}


def _by_name(rows: Iterable[Row]) -> dict[str, Row]:
    return {row.ours: row for row in rows}


def named(rows: Iterable[Row], model: Any) -> Tensors:
    """The model's tensors by their names."""
    places, ours = _places(_by_name(rows), model), model.state_dict()
    theirs = [place.split(ours[name]) for name, place in places.items()]
    return {name: x.detach().contiguous() for part in theirs for name, x in part.items()}


def fill(rows: Iterable[Row], model: Any, given: Tensors, ignored: tuple[str, ...] = ()) -> None:
    """Give a model on meta these tensors, in the widest of their dtypes; halves become fp32.

    The kernels know no fp16. Raises ValueError that names one that is missing, too many, or of a wrong shape.
    """
    rest, by_name = {name: x for name, x in given.items() if not name.endswith(ignored)}, _by_name(rows)
    state = {}
    for name, place in _places(by_name, model).items():
        wanted = place.split(model.state_dict()[name])
        parts = [_taken(rest, other, like) for other, like in wanted.items()]
        state[name] = place.row.join(parts, place.config)
    _check_rest(rest, by_name, model, state)
    dtype = reduce(torch.promote_types, (x.dtype for x in state.values()))
    dtype = torch.float32 if dtype == torch.float16 else dtype
    model.load_state_dict({name: x.to(dtype).contiguous() for name, x in state.items()}, assign=True)


def _taken(tensors: Tensors, name: str, like: Tensor) -> Tensor:
    if name not in tensors:
        raise ValueError(f"{name} {list(like.shape)} is missing")
    if (x := tensors.pop(name)).shape != like.shape:
        raise ValueError(f"{name} must be {list(like.shape)}, got {list(x.shape)}")
    if not x.is_floating_point():
        raise ValueError(f"{name} must be floating point, got {x.dtype}")
    return x


def _check_rest(rest: Tensors, rows: Mapping[str, Row], model: Any, state: Tensors) -> None:
    """Raise ValueError for tensors that nothing of the model is made of."""
    # Of tied weights some files hold both.
    head = rows["head.weight"].theirs[0]
    if model.head.tied and head in rest and not rest.pop(head).equal(state["embed.weight"]):
        raise ValueError(f"{head} must be the embedding's, for the weights are tied")
    if rest:
        raise ValueError(f"{min(rest)} is no part of this model, nor are {len(rest) - 1} more")
