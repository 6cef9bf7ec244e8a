"""Checkpoints of others as models of ours."""

import os
from pathlib import Path
from typing import Any

import torch

from recurra.interop import weights
from recurra.interop.config import ours
from recurra.interop.family import Family
from recurra.interop.rwkv import PUBLISHED, untrained, version
from recurra.interop.table import FAMILIES
from recurra.interop.tokenizer import vocabulary_of
from recurra.models import files
from recurra.models.sequence import SequenceModel

__all__ = ["from_rwkv", "from_transformers"]

_ALWAYS = (files.CONFIG, "tokenizer.json")


def from_transformers(name: str | os.PathLike[str]) -> SequenceModel:
    """The model, in eval mode, of a checkpoint of transformers: a folder, or a repository on the Hugging Face
    hub; transformers itself is not needed.

    Its model type must be in `interop.table.FAMILIES`. Logits are equal; tensors keep their dtype, mixed ones
    the widest, fp16 becomes fp32. `vocabulary` is that of tokenizer.json where it is byte-level; without such
    a file it is None, and where the file can't be read a warning says so. Raises ValueError that names the
    file and the key or tensor that can't be taken, and FileNotFoundError.
    """
    folder = _located(name)
    path = folder / files.CONFIG
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing: {folder} is no checkpoint of transformers")
    given = files.read_json(path, path.read_bytes())
    try:
        family, model = _untrained(given)
    except ValueError as e:
        raise ValueError(f"{path}: {e}") from e
    tensors = weights.read(weights.files_of(folder))
    renamed = {family.aliases.get(name, name): x for name, x in tensors.items()}
    try:
        weights.fill(family.rows, model, renamed, family.ignored)
    except ValueError as e:
        raise ValueError(f"{folder}: {e}") from e
    model.vocabulary = vocabulary_of(folder, model.head.size)
    return model.eval()


def _untrained(given: dict[str, Any]) -> tuple[Family, SequenceModel]:
    """The family of a config, and its model, on meta."""
    kind = given.get("model_type")
    if not isinstance(kind, str) or kind not in FAMILIES:
        raise ValueError(f"key 'model_type' must be one of {', '.join(FAMILIES)}, got {kind!r}")
    with torch.device("meta"):
        return FAMILIES[kind], SequenceModel.from_config(ours(FAMILIES[kind], given))


def _located(name: str | os.PathLike[str]) -> Path:
    """The folder with the files: safetensors, and others only where there are none."""
    safe = files.locate(name, (*_ALWAYS, "model*.safetensors", "model.safetensors.index.json"))
    if Path(name).exists() or any(safe.glob("*.safetensors")):
        return safe
    return files.locate(name, (*_ALWAYS, "pytorch_model*.bin", "pytorch_model.bin.index.json"))


def from_rwkv(path: str | os.PathLike[str], *, divisor: float = 8.0) -> SequenceModel:
    """The model, in eval mode, of a file in the layout in which RWKV-4 and RWKV-5.2 are published: .pth, or
    safetensors with the same names.

    divisor: of what a head reads in RWKV-5 (their head_size_divisor), of which the file says nothing. Dtypes
    as in `from_transformers`; no vocabulary. Raises ValueError that names the file and the tensor.
    """
    tensors = weights.read([Path(path)])
    try:
        number = version(tensors)
        with torch.device("meta"):
            model = untrained(tensors, number, divisor)
        weights.fill(PUBLISHED[number], model, tensors)
    except ValueError as e:
        raise ValueError(f"{path}: {e}") from e
    return model.eval()
