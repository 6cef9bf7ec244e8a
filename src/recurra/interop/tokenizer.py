"""The tokenizer.json of others, and ours as one."""

import json
import warnings
from collections.abc import Iterable, Mapping
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

__all__ = ["tokenizer_files", "tokenizer_json", "vocabulary_of"]

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
    return {FILE: tokenizer_json(vocabulary), "tokenizer_config.json": json.dumps(values, indent=1).encode()}


def tokenizer_json(vocabulary: Vocabulary) -> bytes:
    """The vocabulary as a file of the package tokenizers; characters that it lacks are errors there too."""
    if isinstance(vocabulary, BPEVocabulary):
        return vocabulary.to_bytes()
    if isinstance(vocabulary, CharVocabulary):
        # What is no token stands for the empty one, which is none either.
        words = {
            "type": "WordLevel",
            "unk_token": "",
            "vocab": _numbers(p.decode() for p in vocabulary.pieces),
        }
        cut = {"type": "Split", "pattern": {"Regex": r"[\s\S]"}, "behavior": "Isolated", "invert": False}
        return _written(words, cut, {"type": "Fuse"})
    if not isinstance(vocabulary, ByteVocabulary):
        raise ValueError(f"{type(vocabulary).__name__} can't be written as {FILE}")
    level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
    # Pairs of which none is ever joined.
    pairs = {"type": "BPE", "vocab": _numbers(map(visible, vocabulary.pieces)), "merges": []}
    return _written(pairs, level, level)


def _numbers(names: Iterable[str]) -> dict[str, int]:
    return {name: i for i, name in enumerate(names)}


def _written(model: Mapping[str, Any], cut: Mapping[str, Any], decoder: Mapping[str, Any]) -> bytes:
    added: list[Any] = []
    parts = {"added_tokens": added, "pre_tokenizer": cut, "decoder": decoder, "model": model}
    return json.dumps({"version": "1.0", **parts}).encode()
