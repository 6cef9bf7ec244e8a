"""The tokenizer.json of others, and ours as one."""

import json
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from recurra.models.vocabulary import (
    BPEVocabulary,
    ByteVocabulary,
    CharVocabulary,
    Vocabulary,
    from_bytes,
    visible,
)

__all__ = ["tokenizer_files", "vocabulary_of"]

FILE = BPEVocabulary.FILE


def vocabulary_of(folder: Path, size: int) -> Vocabulary | None:
    """What tokenizer.json says, for a model of `size` tokens; None without one, and with a warning where it
    can't be read."""
    path = folder / FILE
    if not path.is_file():
        return None
    try:
        vocabulary = from_bytes(path, path.read_bytes())
        if vocabulary.size > size:
            raise ValueError(f"{path} has {vocabulary.size} tokens, the model only {size}")
    except (ValueError, ImportError) as e:
        warnings.warn(f"the model is loaded without its vocabulary: {e}", stacklevel=3)
        return None
    return vocabulary


def tokenizer_files(vocabulary: Vocabulary) -> dict[str, bytes]:
    """The files from which transformers' AutoTokenizer makes this vocabulary."""
    values = {"tokenizer_class": "PreTrainedTokenizerFast", "clean_up_tokenization_spaces": False}
    return {FILE: _tokenizer(vocabulary), "tokenizer_config.json": json.dumps(values, indent=1).encode()}


def _tokenizer(vocabulary: Vocabulary) -> bytes:
    if isinstance(vocabulary, BPEVocabulary):
        return vocabulary.to_bytes()
    if isinstance(vocabulary, CharVocabulary):
        return _pairs([piece.decode() for piece in vocabulary.pieces], None, {"type": "Fuse"})
    if not isinstance(vocabulary, ByteVocabulary):
        raise ValueError(f"{type(vocabulary).__name__} can't be written as {FILE}")
    level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
    return _pairs([visible(piece) for piece in vocabulary.pieces], level, level)


def _pairs(names: list[str], cut: Mapping[str, Any] | None, decoder: Mapping[str, Any]) -> bytes:
    """A tokenizer of single characters: pairs of which none is ever joined."""
    model = {"type": "BPE", "vocab": {name: i for i, name in enumerate(names)}, "merges": []}
    added: list[Any] = []
    whole = {
        "version": "1.0",
        "added_tokens": added,
        "pre_tokenizer": cut,
        "decoder": decoder,
        "model": model,
    }
    return json.dumps(whole).encode()
