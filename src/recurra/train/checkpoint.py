"""Checkpoints: a folder each, written aside, synced, then named, so that a kill leaves the old or the new.

`RUN/step-00000250` holds the model as `save_pretrained` leaves it, training.safetensors (the optimizer),
carried.safetensors (states, where carried), averaged.safetensors (the weights, where the model has the mean
of several) and training.json (step, time, best, options, and the SHA-256 of all files and of itself).
Random numbers and the data order are functions of seed and step: they need no place. The newest checkpoint
and the best one are kept.
"""

import contextlib
import dataclasses
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from recurra import state as states
from recurra.train.config import TrainConfig
from recurra.train.shards import share, whole

__all__ = [
    "Position",
    "averaged",
    "best",
    "last",
    "load",
    "moments",
    "options",
    "position",
    "save",
    "weights",
]

T = TypeVar("T")

PREFIX = "step-"
JSON, TENSORS, CARRIED = "training.json", "training.safetensors", "carried.safetensors"
AVERAGED = "averaged.safetensors"


@dataclass(frozen=True)
class Position:
    """Where a run is: steps done, seconds spent, and the step and the score of its best evaluation."""

    step: int = 0
    seconds: float = 0.0
    best_step: int | None = None
    best_score: float | None = None


def steps(run: Path) -> list[Path]:
    """The checkpoints of a run, oldest first."""
    found = [p for p in run.glob(f"{PREFIX}*") if p.name.removeprefix(PREFIX).isdigit()]
    return sorted(found, key=lambda p: int(p.name.removeprefix(PREFIX)))


def last(run: Path) -> Path | None:
    """The newest checkpoint of a run, None where it has none."""
    found = steps(run)
    return found[-1] if found else None


def best(run: Path) -> Path:
    """The checkpoint with the best score on what is held out, or the newest where none was evaluated.

    Raises FileNotFoundError where the folder holds none.
    """
    newest = last(run)
    if newest is None:
        raise FileNotFoundError(f"{run} holds no checkpoint of recurra")
    chosen = position(newest).best_step
    return newest if chosen is None else _folder(run, chosen)


def save(
    run: Path,
    where: Position,
    model: Any,
    moments: dict[str, Tensor],
    carried: Any,
    averaged: dict[str, Tensor],
    config: TrainConfig,
    vocabulary: Any,
) -> None:
    """Write a checkpoint, then drop those it makes useless. Raises OSError; older ones stay as they are."""
    target = _folder(run, where.step)
    with _draft(run) as draft:
        model.save_pretrained(draft, vocabulary=vocabulary)
        save_file(moments, draft / TENSORS)
        if carried:
            states.save(carried, draft / CARRIED)
        if averaged:
            save_file(averaged, draft / AVERAGED)
        _write_json(draft, {"position": dataclasses.asdict(where), "config": dataclasses.asdict(config)})
        _sync(draft)
        draft.replace(target)
    _sync_folder(run)
    kept = {target, _folder(run, where.step if where.best_step is None else where.best_step)}
    for folder in steps(run):
        if folder not in kept:
            shutil.rmtree(folder)


def position(folder: Path) -> Position:
    """Where the run was. Raises ValueError, naming the file, where it is damaged."""
    return _part(folder, "position", Position)


def options(folder: Path) -> TrainConfig:
    """The options of the run. Raises ValueError, naming the file, where it is damaged."""
    return _part(folder, "config", TrainConfig)


def weights(folder: Path, model: Any) -> None:
    """Put the checkpoint's weights into the model. Raises ValueError where they do not fit."""
    try:
        own, saved = model.state_dict(), type(model).from_pretrained(folder).state_dict()
        model.load_state_dict({name: share(x, own[name]) if name in own else x for name, x in saved.items()})
    except RuntimeError as e:
        raise ValueError(f"{folder} does not fit the model: {' '.join(str(e).split())}") from e


def load(folder: Path, model: nn.Module, optimizer: torch.optim.Optimizer) -> list[Any]:
    """Restore the optimizer; returns the carried states. Raises ValueError where damaged."""
    for name, digest in _read_json(folder)["files"].items():
        if not (folder / name).exists() or _sha256(folder / name) != digest:
            raise ValueError(f"{folder / name} is damaged: it does not match its SHA-256")
    tensors = load_file(folder / TENSORS)
    parameters = dict(model.named_parameters())
    for key, value in tensors.items():
        moment, _, name = key.partition("/")
        optimizer.state[parameters[name]][moment] = _like(moment, value, parameters[name])
    return list(states.load(folder / CARRIED)) if (folder / CARRIED).exists() else []


def averaged(folder: Path) -> dict[str, Tensor]:
    """The weights of which the model has the mean, once `load` has found nothing damaged."""
    return load_file(folder / AVERAGED) if (folder / AVERAGED).exists() else {}


def _folder(run: Path, step: int) -> Path:
    return run / f"{PREFIX}{step:08}"


@contextlib.contextmanager
def _draft(run: Path) -> Iterator[Path]:
    """A folder to write in; gone when anything fails. Those of killed runs go too."""
    for old in run.glob(".draft-*"):
        shutil.rmtree(old)
    draft = Path(tempfile.mkdtemp(dir=run, prefix=".draft-"))
    draft.chmod(0o755)
    try:
        yield draft
    except (SafetensorError, OSError) as e:
        raise OSError(f"{run} can't be written: {e}") from e
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def moments(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """The tensors of the optimizer by the names of their parameters; of shared ones all processes ask."""
    return {
        f"{key}/{name}": whole(value.detach()).cpu().contiguous()
        for name, parameter in model.named_parameters()
        for key, value in optimizer.state.get(parameter, {}).items()
    }


def _like(key: str, value: Tensor, parameter: nn.Parameter) -> Tensor:
    """Memory of torch's own, not of the file; the step counter stays on the CPU, where torch keeps it."""
    return value.clone() if key == "step" else share(value.to(parameter.device, copy=True), parameter)


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as f:
        while data := f.read(1 << 20):
            digest.update(data)
    return digest.hexdigest()


def _seal(body: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()


def _write_json(folder: Path, body: dict[str, Any]) -> None:
    body = {**body, "files": {path.name: _sha256(path) for path in sorted(folder.iterdir())}}
    text = json.dumps({**body, "sha256": _seal(body)}, indent=2)
    (folder / JSON).write_text(text + "\n", encoding="utf-8")


def _read_json(folder: Path) -> dict[str, Any]:
    path = folder / JSON
    try:
        body = json.loads(path.read_text(encoding="utf-8"))
        sealed = body.pop("sha256")
    except FileNotFoundError:
        raise FileNotFoundError(f"{folder} is no checkpoint of recurra: it has no {JSON}") from None
    except (ValueError, KeyError, AttributeError, TypeError) as e:
        raise ValueError(f"{path} is damaged: {e!r}") from e
    if sealed != _seal(body):
        raise ValueError(f"{path} is damaged: it does not match its SHA-256")
    return dict(body)


def _part(folder: Path, key: str, kind: Callable[..., T]) -> T:
    try:
        return kind(**_read_json(folder)[key])
    except (TypeError, KeyError) as e:
        raise ValueError(f"{folder / JSON} is of another version of recurra: {e}") from e


def _sync(folder: Path) -> None:
    for path in folder.iterdir():
        with path.open("rb") as f:
            os.fsync(f.fileno())
    _sync_folder(folder)


def _sync_folder(folder: Path) -> None:
    if os.name == "nt":  # which has no handle of a folder to sync
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
