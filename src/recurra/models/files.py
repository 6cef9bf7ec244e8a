"""A model's folder: written whole or not at all, read only where every byte is the one that was written.

config.json holds the SHA-256 of each other file, and of its own values. It is also what makes a save
take place: the others lie ready as drafts before it is replaced, and take their names afterwards. A
reader that comes, or a process that is killed, in between finds each file under one of its two names.
"""

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from recurra.version import __version__

__all__ = ["CONFIG", "VOCABULARIES", "WEIGHTS", "locate", "read", "read_json", "write", "write_alone"]

CONFIG, WEIGHTS = "config.json", "model.safetensors"
# Of a folder that was saved with a vocabulary, one of these.
VOCABULARIES = ("vocabulary.json", "tokenizer.json")
_OURS = ("recurra", "sha256")

PathLike = str | os.PathLike[str]


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def own_sha256(values: Mapping[str, Any], sums: Mapping[str, str]) -> str:
    """The SHA-256 of a config: of its values and of the sums of the other files."""
    return _sha256(json.dumps([values, sums], sort_keys=True, allow_nan=False).encode())


def _draft(path: Path) -> Path:
    return path.with_name(f".{path.name}.draft")


def _synced(path: Path, content: bytes) -> None:
    with path.open("wb") as f:
        f.write(content)
        f.flush()
        os.fsync(f.fileno())


def write(folder: PathLike, config: Mapping[str, Any], contents: Mapping[str, bytes]) -> None:
    """Write config.json and the files it speaks for; a failing write leaves what was there."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    _finish(folder)
    values = {"recurra": __version__, **config}
    sums = {name: _sha256(content) for name, content in contents.items()}
    own = own_sha256(values, sums)
    text = json.dumps({**values, "sha256": {**sums, CONFIG: own}}, indent=1) + "\n"
    # The config is the first to take its name: from then on the drafts are the model.
    whole = {CONFIG: text.encode(), **contents}
    drafts = [_draft(folder / name) for name in whole]
    try:
        for draft, content in zip(drafts, whole.values(), strict=True):
            _synced(draft, content)
    except BaseException:
        for draft in drafts:
            draft.unlink(missing_ok=True)
        raise
    for draft, name in zip(drafts, whole, strict=True):
        draft.replace(folder / name)
    _sync_folder(folder)


def _finish(folder: Path) -> None:
    """Give the drafts that a killed save has left as the model their names: new ones would overwrite them."""
    drafts = {name: _draft(folder / name) for name in (WEIGHTS, *VOCABULARIES)}
    left = {name: draft for name, draft in drafts.items() if draft.is_file()}
    if not left or not (path := folder / CONFIG).is_file():
        return
    with suppress(ValueError):  # a config that is none has no model
        sums = _checked_sums(path, read_json(path, path.read_bytes()))
        for name, draft in left.items():
            if _sha256(draft.read_bytes()) == sums.get(name):
                draft.replace(folder / name)


def write_alone(path: Path, content: bytes) -> None:
    """Write one file, whole or not at all."""
    _synced(_draft(path), content)
    _draft(path).replace(path)
    _sync_folder(path.parent)


def _sync_folder(folder: Path) -> None:
    if os.name == "posix":
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a key occurs twice")
    return found


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is no JSON")


def read_json(path: Path, content: bytes) -> dict[str, Any]:
    """The object in a JSON file. Raises ValueError that names the file."""
    try:
        values = json.loads(content.decode("utf8"), object_pairs_hook=_once, parse_constant=_refuse)
    except (ValueError, RecursionError) as e:
        raise ValueError(f"{path} is not a JSON file: {e}") from e
    if not isinstance(values, dict):
        raise ValueError(f"{path} must hold a JSON object, got {type(values).__name__}")
    return values


def _checked_sums(path: Path, values: dict[str, Any]) -> dict[str, str]:
    """The sums in a config, taken out of it. Raises ValueError where they are not ours or not its own."""
    for key in _OURS:
        if key not in values:
            raise ValueError(f"{path}: key {key!r} is missing; was it written by recurra?")
    sums = values.pop("sha256")
    if not isinstance(sums, dict) or not {CONFIG, WEIGHTS} <= sums.keys():
        raise ValueError(f"{path}: key 'sha256' must hold the sums of {CONFIG} and {WEIGHTS}, got {sums!r}")
    if unknown := sums.keys() - {CONFIG, WEIGHTS, *VOCABULARIES}:
        raise ValueError(f"{path}: key 'sha256' holds unknown files: {', '.join(sorted(unknown))}")
    if sums.pop(CONFIG) != own_sha256(values, sums):
        raise ValueError(f"{path} is damaged or was edited: its values do not have the SHA-256 it gives")
    return sums


def _content(path: Path, sha256: str) -> bytes:
    found = [p for p in (path, _draft(path)) if p.is_file()]
    if not found:
        raise FileNotFoundError(f"{path} is missing")
    for place in found:
        if _sha256(content := place.read_bytes()) == sha256:
            return content
    raise ValueError(f"{path} is damaged or of another save: its SHA-256 is not the one in {CONFIG}")


def read(folder: PathLike) -> tuple[dict[str, Any], dict[str, bytes]]:
    """The config and the files it speaks for. Raises ValueError or FileNotFoundError that names the file."""
    path = Path(folder) / CONFIG
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing: {folder} is no saved model")
    values = read_json(path, path.read_bytes())
    sums = _checked_sums(path, values)
    del values["recurra"]
    return values, {name: _content(path.with_name(name), sha256) for name, sha256 in sums.items()}


def locate(name: PathLike, files: Sequence[str] = (CONFIG, WEIGHTS, *VOCABULARIES)) -> Path:
    """The folder of that name, or else the local copy of the repository on the Hugging Face hub, as far as
    its files have one of these names or patterns."""
    folder = Path(name)
    if folder.exists():
        return folder
    from huggingface_hub import snapshot_download  # noqa: PLC0415 - slow to import, and seldom needed

    try:
        return Path(snapshot_download(str(name), allow_patterns=list(files)))
    except Exception as e:
        raise FileNotFoundError(f"{name} is no folder here, and the Hugging Face hub gave none: {e}") from e
