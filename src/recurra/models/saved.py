"""Models that can be written to a folder, whole or not at all, and read from it, or from the hub."""

import os
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from recurra.blocks.table import build
from recurra.models import files
from recurra.models.vocabulary import Vocabulary, from_bytes
from recurra.ops.quantized import Quantized

__all__ = ["Saved", "built"]

M = TypeVar("M", bound="Saved")

# What other tools look for in the header of such a file.
_PYTORCH = {"format": "pt"}


class Saved(nn.Module, ABC):
    """A model with a `head`, whose `config` says all that `from_config` needs; with its vocabulary."""

    head: Any
    vocabulary: Vocabulary | None = None

    @property
    @abstractmethod
    def config(self) -> dict[str, Any]:
        """All that `from_config` needs to build this model anew, as JSON."""

    @classmethod
    @abstractmethod
    def from_config(cls: type[M], config: Mapping[str, Any]) -> M:
        """The untrained model of a `config`. Raises ValueError that names a key: unknown, missing, wrong."""

    def train(self: M, mode: bool = True) -> M:
        """Go into training mode, or out of it. Raises RuntimeError where weights are quantized."""
        if mode and any(isinstance(part, Quantized) for part in self.modules()):
            raise RuntimeError("quantized weights are not trained: train the model they were made of")
        return super().train(mode)

    def save_pretrained(self, folder: str | os.PathLike[str], vocabulary: Vocabulary | None = None) -> None:
        """Write model.safetensors, config.json and the vocabulary, whole or not at all, also when killed.

        vocabulary: the one to keep with the model, which also becomes `self.vocabulary`.
        """
        vocabulary, size = vocabulary or self.vocabulary, self.head.size
        if vocabulary is not None and vocabulary.size > size:
            raise ValueError(f"vocabulary has {vocabulary.size} tokens, the model only {size}")
        self.vocabulary = vocabulary
        tensors = {name: p.detach().contiguous() for name, p in self.state_dict().items()}
        kept = {} if vocabulary is None else {vocabulary.FILE: vocabulary.to_bytes()}
        files.write(folder, self.config, {files.WEIGHTS: safetensors.torch.save(tensors, _PYTORCH), **kept})

    def push_to_hub(
        self,
        repo_id: str,
        *,
        private: bool | None = None,
        token: str | None = None,
        branch: str | None = None,
    ) -> str:
        """Upload what `save_pretrained` writes to a repository on the Hugging Face hub, made where it is
        missing; `from_pretrained(repo_id)` loads it. token: None for that of `hf auth login`. Returns the
        address of the commit; raises what huggingface_hub raises.
        """
        from recurra.models.hub import push  # noqa: PLC0415 - slow to import, and seldom needed

        return push(self, repo_id, private, token, branch)

    @classmethod
    def from_pretrained(cls: type[M], name: str | os.PathLike[str]) -> M:
        """The model, in eval mode, of a folder or else of a repository on the Hugging Face hub.

        Raises ValueError that names the file where one is damaged, foreign or does not fit the others.
        """
        folder = files.locate(name)
        return cls.restored(folder, *files.read(folder))

    @classmethod
    def restored(cls: type[M], folder: Path, config: Mapping[str, Any], contents: dict[str, bytes]) -> M:
        """The model of what `models.files.read` gave of a folder, whose name stands in errors."""
        try:
            with torch.device("meta"):
                model = cls.from_config(config)
        except ValueError as e:
            raise ValueError(f"{folder / files.CONFIG}: {e}") from e
        weights = contents.pop(files.WEIGHTS)
        model.load_state_dict(_tensors(folder / files.WEIGHTS, weights, model), assign=True)
        for file, content in contents.items():
            model.vocabulary = from_bytes(folder / file, content)
        return model.eval()


def built(key: str, given: Sequence[Any], width: int) -> list[nn.Module]:
    """The blocks that a config describes at that key. Raises ValueError that names key and number."""
    return [_numbered(f"key {key!r}, {i}", block, width) for i, block in enumerate(given)]


def _numbered(where: str, given: Any, width: int) -> nn.Module:
    if not isinstance(given, dict):
        raise ValueError(f"{where}: must be an object, got {given!r}")
    if given.get("width") != width:
        raise ValueError(f"{where}: key 'width' must be {width}, got {given.get('width')!r}")
    try:
        return build(given)
    except ValueError as e:
        raise ValueError(f"{where}: {e}") from e


def _tensors(path: Path, content: bytes, model: nn.Module) -> dict[str, Tensor]:
    """The tensors of a file, which must be those of the model. Raises ValueError that names the file."""
    try:
        tensors = safetensors.torch.load(content)
    except (SafetensorError, KeyError, RuntimeError, TypeError, ValueError) as e:
        raise ValueError(f"{path} is not a safetensors file: {e!r}") from e
    want = {name: tuple(p.shape) for name, p in model.state_dict().items()}
    got = {name: tuple(x.shape) for name, x in tensors.items()}
    if wrong := sorted(name for name in want.keys() | got.keys() if want.get(name) != got.get(name)):
        name = wrong[0]
        raise ValueError(f"{path}: {name} must be {want.get(name, 'absent')}, got {got.get(name, 'none')}")
    dtypes = {x.dtype for x in tensors.values()}
    if len(dtypes) != 1 or not dtypes.pop().is_floating_point:
        raise ValueError(f"{path}: tensors must be floating point, of one dtype")
    return tensors
