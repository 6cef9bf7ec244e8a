"""Our models as checkpoints that transformers loads."""

import json
import os
from pathlib import Path
from typing import Any

import safetensors.torch

from recurra.blocks.table import BLOCKS
from recurra.interop import weights
from recurra.interop.config import theirs
from recurra.interop.family import Family
from recurra.interop.table import FAMILIES
from recurra.interop.tokenizer import tokenizer_files
from recurra.models import files
from recurra.models.sequence import SequenceModel

__all__ = ["to_transformers"]


def to_transformers(model: SequenceModel, folder: str | os.PathLike[str]) -> None:
    """Write config.json, model.safetensors and, of a model with a vocabulary, tokenizer.json: what
    `transformers.AutoModelForCausalLM.from_pretrained(folder)` loads, with equal logits.

    Raises ValueError that says what no model type of transformers that we know has a place for.
    """
    family, config = _told(model)
    tensors = weights.named(family.rows, model)
    config["dtype"] = str(next(iter(tensors.values())).dtype).removeprefix("torch.")
    kept = {} if model.vocabulary is None else tokenizer_files(model.vocabulary)
    contents = {
        files.WEIGHTS: safetensors.torch.save(tensors, {"format": "pt"}),
        **kept,
        # The last: without it nobody takes the folder for a checkpoint.
        files.CONFIG: json.dumps(config, indent=1).encode(),
    }
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in contents.items():
        files.write_alone(folder / name, content)


def _told(model: SequenceModel) -> tuple[Family, dict[str, Any]]:
    """The first family that has words for this model, and the words."""
    if model.channels:
        raise ValueError("the model reads real numbers; models of transformers read tokens")
    kinds = sorted({_name(block) for block in model.blocks})
    families = [family for family in FAMILIES.values() if [family.block] == kinds]
    if not families:
        known = ", ".join(dict.fromkeys(family.block for family in FAMILIES.values()))
        raise ValueError(f"blocks must be all {known}, for transformers to have them, got {', '.join(kinds)}")
    wrong = []
    for family in families:
        try:
            return family, theirs(family, model)
        except ValueError as e:
            wrong.append(f"{family.model_type}: {e}")
    raise ValueError(f"transformers has no such model; {'; '.join(wrong)}")


def _name(block: Any) -> str:
    return next(name for name, row in BLOCKS.items() if type(block) is row.block)
