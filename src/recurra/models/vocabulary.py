"""Vocabularies: text to tokens and back. A vocabulary is the bytes of each of its tokens."""

import json
import os
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from recurra.models.files import VOCABULARIES, read_json, write_alone

__all__ = [
    "BPEVocabulary",
    "ByteVocabulary",
    "CharVocabulary",
    "Vocabulary",
    "from_bytes",
    "load_vocabulary",
    "visible",
]


class Vocabulary(ABC):
    """`pieces`: the UTF-8 bytes of each token, in the order of their numbers."""

    FILE: ClassVar[str] = "vocabulary.json"

    pieces: Sequence[bytes]

    @abstractmethod
    def encode(self, text: str | bytes) -> list[int]:
        """Tokens of a text. Raises ValueError for what the vocabulary can't write."""

    @abstractmethod
    def to_bytes(self) -> bytes:
        """Content of `FILE`; `from_bytes` reads it."""

    @property
    def size(self) -> int:
        """How many tokens there are."""
        return len(self.pieces)

    def piece(self, token: int) -> bytes:
        """Bytes of a token; none of those beyond, by which a model's head may be wider."""
        return self.pieces[token] if token < self.size else b""

    def decode(self, tokens: Iterable[int]) -> str:
        """Text of some tokens; bytes that are no UTF-8 become U+FFFD."""
        return b"".join(map(self.piece, tokens)).decode("utf8", "replace")

    @cached_property
    def _bytes(self) -> Tensor:
        return torch.tensor([len(piece) for piece in self.pieces])

    def count_bytes(self, tokens: Tensor) -> int:
        """How many bytes of text the tokens stand for: nats over log(2) times that are bits per byte."""
        return int(self._bytes[tokens.cpu().long()].sum())

    def save(self, folder: str | os.PathLike[str]) -> None:
        """Write `FILE` in that folder, whole or not at all; `load_vocabulary` reads it."""
        write_alone(Path(folder) / self.FILE, self.to_bytes())


class ByteVocabulary(Vocabulary):
    """The 256 bytes."""

    def __init__(self) -> None:
        self.pieces = [bytes([i]) for i in range(256)]

    def encode(self, text: str | bytes) -> list[int]:
        return list(text.encode("utf8") if isinstance(text, str) else text)

    def to_bytes(self) -> bytes:
        return json.dumps({"kind": "byte"}).encode()


class CharVocabulary(Vocabulary):
    """Some Unicode characters, numbered in their order."""

    def __init__(self, characters: str) -> None:
        self._numbers = {c: i for i, c in enumerate(characters)}
        if len(self._numbers) < len(characters) or not characters:
            raise ValueError(f"characters must be different ones, at least one, got {characters!r}")
        self.pieces = [c.encode("utf8") for c in characters]

    @classmethod
    def of(cls, text: str) -> "CharVocabulary":
        """The characters of a text."""
        return cls("".join(sorted(set(text))))

    def encode(self, text: str | bytes) -> list[int]:
        text = text.decode("utf8") if isinstance(text, bytes) else text
        try:
            return [self._numbers[c] for c in text]
        except KeyError as e:
            c = e.args[0]
            where = f"at {text.index(c)}, is none of the {self.size} of this vocabulary"
            raise ValueError(f"the character {c!r}, {where}") from None

    def to_bytes(self) -> bytes:
        return json.dumps({"kind": "char", "characters": "".join(self._numbers)}).encode()


class BPEVocabulary(Vocabulary):
    """Byte-level pairs (arXiv 1508.07909), by the package tokenizers: any text, no unknown token.

    Tokens that were added to a tokenizer stand for their own text, also those that it calls special: in a
    text they are found, and they are written. Raises ValueError where the tokenizer is not byte-level or its
    numbers have gaps.
    """

    FILE: ClassVar[str] = "tokenizer.json"

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        by_number = {i: token for token, i in tokenizer.get_vocab().items()}
        added = {i: token.content.encode() for i, token in tokenizer.get_added_tokens_decoder().items()}
        try:
            self.pieces = [added.get(i) or _piece(by_number[i]) for i in range(len(by_number))]
        except KeyError as e:
            raise ValueError(f"the tokenizer is not byte-level, or has gaps: {e.args[0]!r}") from None
        if len(by_number) < 256:
            raise ValueError(f"a byte-level tokenizer has at least 256 tokens, got {len(by_number)}")

    @classmethod
    def train(cls, files: Iterable[str | os.PathLike[str]], size: int) -> "BPEVocabulary":
        """Learn `size` tokens, at least the 256 bytes, from text files."""
        if size < 256:
            raise ValueError(f"size must be at least 256, the bytes, got {size}")
        package = _tokenizers()
        level = package.pre_tokenizers.ByteLevel
        tokenizer = package.Tokenizer(package.models.BPE())
        tokenizer.pre_tokenizer = level(add_prefix_space=False)
        tokenizer.decoder = package.decoders.ByteLevel()
        trainer = package.trainers.BpeTrainer(
            vocab_size=size, initial_alphabet=level.alphabet(), show_progress=False
        )
        tokenizer.train([os.fspath(file) for file in files], trainer)
        return cls(tokenizer)

    def encode(self, text: str | bytes) -> list[int]:
        text = text.decode("utf8") if isinstance(text, bytes) else text
        ids: list[int] = self._tokenizer.encode(text, add_special_tokens=False).ids
        return ids

    def to_bytes(self) -> bytes:
        text: str = self._tokenizer.to_str()
        return text.encode()


def _tokenizers() -> Any:
    try:
        import tokenizers  # noqa: PLC0415 - an extra
    except ImportError as e:
        raise ImportError("BPEVocabulary needs the package tokenizers: pip install 'recurra[bpe]'") from e
    return tokenizers


def _byte_alphabet() -> dict[str, int]:
    """How byte-level tokenizers write bytes: as visible characters, those of Latin-1 being themselves."""
    seen = [*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAC + 1), *range(0xAE, 0xFF + 1)]
    rest = [b for b in range(256) if b not in seen]
    return {chr(b): b for b in seen} | {chr(256 + i): b for i, b in enumerate(rest)}


_BYTES = _byte_alphabet()


_VISIBLE = {b: c for c, b in _BYTES.items()}


def visible(piece: bytes) -> str:
    """How byte-level tokenizers write these bytes."""
    return "".join(_VISIBLE[b] for b in piece)


def _piece(token: str) -> bytes:
    return bytes(_BYTES[c] for c in token)


def from_bytes(path: Path, content: bytes) -> Vocabulary:
    """The vocabulary in a file of that name. Raises ValueError that names it."""
    try:
        if path.name == BPEVocabulary.FILE:
            return BPEVocabulary(_tokenizers().Tokenizer.from_str(content.decode("utf8")))
        values = read_json(path, content)
        if values == {"kind": "byte"}:
            return ByteVocabulary()
        characters = values.pop("characters", None)
        if values == {"kind": "char"} and isinstance(characters, str):
            return CharVocabulary(characters)
    except ImportError:
        raise
    except Exception as e:  # tokenizers raises plain Exception
        raise ValueError(f"{path} is no vocabulary: {e}") from e
    raise ValueError(f"{path} is no vocabulary of recurra")


def load_vocabulary(folder: str | os.PathLike[str]) -> Vocabulary:
    """What `save` wrote in that folder. Raises ValueError or FileNotFoundError that names the file."""
    for name in VOCABULARIES:
        if (path := Path(folder) / name).is_file():
            return from_bytes(path, path.read_bytes())
    raise FileNotFoundError(f"{folder} holds none of {', '.join(VOCABULARIES)}")
