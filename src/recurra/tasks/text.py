"""Text: the next token of files of text, how they are split, and what a model of them is worth."""

import hashlib
import json
import math
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray

from recurra.models.vocabulary import (
    BPEVocabulary,
    ByteVocabulary,
    CharVocabulary,
    Vocabulary,
    load_vocabulary,
)
from recurra.tasks.losses import attends, bits, text_loss, windows_loss
from recurra.tasks.sources import PACKED, Source, find, pieces
from recurra.tasks.windows import Reading, Streams, Windows

__all__ = ["Text", "TextFiles", "bytes_per_token", "encode", "prepare", "read"]

Tokens = NDArray[np.unsignedinteger[Any]]

# Tokens at a time.
PIECE = 1 << 20
# Beyond so many tokens no attention reads a text as a whole: the time of that is quadratic.
LONGEST = 1 << 15


@dataclass(frozen=True)
class Text:
    """Tokens to train, validate and test on, the vocabulary they are in, and bytes for each token.

    The task is to predict the next token; bits per byte can be compared over vocabularies. Without tokens to
    test on a model is judged by those to validate on.
    """

    train: Tokens
    valid: Tokens
    vocabulary: Vocabulary
    source: str
    bytes_per_token: float
    test: Tokens | None = None

    name: ClassVar[str] = "text"
    channels: ClassVar[int] = 0
    paired: ClassVar[bool] = False
    metric: ClassVar[str] = "bits_per_byte"

    @staticmethod
    def load(folder: Path) -> "Text":
        """Map what `prepare` wrote. Raises ValueError, naming the folder, where it is damaged."""
        try:
            about = json.loads((folder / "text.json").read_text(encoding="utf-8"))
            tokens = _map(folder / "tokens.bin", about["dtype"], about["sha256"])
            split, end = about["split"], about.get("test", len(tokens))
            ratio, test = float(about["bytes_per_token"]), tokens[end:] if end < len(tokens) else None
            vocabulary, source = load_vocabulary(folder), about["source"]
            return Text(tokens[:split], tokens[split:end], vocabulary, source, ratio, test)
        except (KeyError, TypeError, ValueError) as e:
            raise ValueError(f"{folder} is damaged: {e}") from e

    @property
    def size(self) -> int:
        """Tokens of the vocabulary."""
        return self.vocabulary.size

    def feed(self, rows: int, context: int, seed: int, carry: bool) -> Reading:
        """Raises ValueError where the text is too short."""
        order = Streams if carry else Windows
        return Reading(self.train, order(len(self.train), context, rows, seed))

    def measures(self, loss: float) -> dict[str, float]:
        """Bits per byte."""
        return {self.metric: bits(loss, self.bytes_per_token)}

    def score(self, model: Any, context: int, count: int) -> float:
        """Bits per byte of `count` windows of the held-out text."""
        return bits(windows_loss(model, self.valid, context, count), self.bytes_per_token)

    def better(self, score: float, than: float) -> bool:
        """Whether it is lower."""
        return score < than

    def scores(self, model: Any, context: int, lengths: Sequence[int] = ()) -> dict[str, float]:
        """Bits per byte: `bits_per_byte@256` on fresh windows of 256, `@whole` with carried state."""
        losses = self._losses(model, lengths or [context])
        return {f"{self.metric}@{name}": bits(x, self.bytes_per_token) for name, x in losses.items()}

    def report(self, model: Any, context: int, lengths: Sequence[int] = ()) -> list[str]:
        """Bits per byte and perplexity: on fresh windows, and over the whole text with carried state."""
        count, ratio = len(self._judged), self.bytes_per_token
        return [f"{count:,} tokens, {ratio:.3g} bytes each"] + [
            f"{'whole text, state carried' if name == 'whole' else f'fresh windows of {name}':26} "
            f"{bits(x, ratio):.4f} bits/byte  perplexity {math.exp(x):.3f}  {x:.4f} nats"
            for name, x in self._losses(model, lengths or [context]).items()
        ]

    def _losses(self, model: Any, contexts: Sequence[int]) -> dict[str, float]:
        """Nats per token on fresh windows of each length, no longer than the text, and over the whole; with
        attention not over the whole of a long one."""
        windows = {min(context, len(self._judged) - 1) for context in contexts}
        fresh = {str(n): windows_loss(model, self._judged, n) for n in sorted(windows)}
        if len(self._judged) > LONGEST and attends(model):
            return fresh
        return {**fresh, "whole": text_loss(model, self._judged)}

    @property
    def _judged(self) -> Tokens:
        return self.valid if self.test is None else self.test


@dataclass(frozen=True)
class TextFiles:
    """Text of a file, a folder or Python's own library, its tokens kept with the run."""

    context: ClassVar[int] = 256
    paired: ClassVar[bool] = False
    kind: ClassVar[str] = "byte"

    def prepare(
        self, source: str | None, run: Path, kind: str, size: int, vocabulary: Vocabulary | None
    ) -> Text:
        """As `prepare` below."""
        return prepare(source, run / "text", kind, size, vocabulary)

    def load(self, run: Path) -> Text:
        """Raises ValueError where it is damaged."""
        return Text.load(run / "text")

    def read(self, source: str, vocabulary: Vocabulary | None) -> Text:
        """As `read` below."""
        return read(source, vocabulary)


def prepare(
    source: str | None,
    folder: Path,
    kind: str = "byte",
    size: int = 4096,
    vocabulary: Vocabulary | None = None,
) -> Text:
    """Encode a source ("-" is stdin) into the folder, whole or not at all, and map the tokens.

    vocabulary: None makes one of its kind: byte, char, or bpe with `size` tokens. Raises ValueError for
    what is not text, is too short, or can't be written in the vocabulary.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".text-") as temporary:
        draft = Path(temporary) / "text"
        draft.mkdir()
        files = _spooled(Path(temporary) / "stdin") if source == "-" else find(source)
        letters = _letters(files)
        _write(files, vocabulary or _vocabulary(files, letters, kind, size), draft)
        shutil.rmtree(folder, ignore_errors=True)
        draft.replace(folder)
    return Text.load(folder)


def read(source: str, vocabulary: Vocabulary | None) -> Text:
    """A source in the vocabulary of a model, all of it held out. Raises ValueError where it is too short."""
    if vocabulary is None:
        raise ValueError(f"{source} can't be read: the model has no vocabulary")
    parts = list(encode(find(source).train, vocabulary))
    tokens = np.concatenate(parts) if parts else np.zeros(0, np.uint8)
    if len(tokens) < 2:
        raise ValueError(f"{source} holds {len(tokens)} token(s): there is nothing to predict")
    return Text(tokens[:0], tokens, vocabulary, source, bytes_per_token(tokens, vocabulary))


def encode(files: Sequence[Path], vocabulary: Vocabulary) -> Iterator[Tokens]:
    """Tokens of the files in order, about a megabyte of text at a time."""
    for path in files:
        for piece in pieces(path, str(path)):
            yield np.array(vocabulary.encode(piece), _dtype(vocabulary))


def bytes_per_token(tokens: Tokens, vocabulary: Vocabulary) -> float:
    """Bytes of text that a token stands for, in the mean."""
    parts = (tokens[i : i + PIECE].astype(np.int64) for i in range(0, len(tokens), PIECE))
    return sum(vocabulary.count_bytes(torch.from_numpy(part)) for part in parts) / len(tokens)


def _spooled(path: Path) -> Source:
    """Stdin as a file: a vocabulary may have to read it twice."""
    with path.open("wb") as f:
        shutil.copyfileobj(sys.stdin.buffer, f)
    return Source("stdin", [path])


def _letters(source: Source) -> set[str]:
    """The characters of a source, which is thereby known to be text."""
    letters: set[str] = set()
    for path in (*source.train, *source.valid, *source.test):
        name = source.name if len(source.train) == 1 else str(path)
        for piece in pieces(path, name):
            letters.update(piece)
    if not letters:
        raise ValueError(f"{source.name} is empty")
    if not any(letter.strip() for letter in letters):
        raise ValueError(f"{source.name} holds no text, only white space")
    return letters


def _vocabulary(source: Source, letters: set[str], kind: str, size: int) -> Vocabulary:
    if kind == "bpe":
        if packed := [path for path in source.train if path.suffix in {*PACKED, ".zip"}]:
            raise ValueError(f"{packed[0]} is packed: unpack it for a bpe vocabulary")
        return BPEVocabulary.train(source.train, size)
    return CharVocabulary.of("".join(sorted(letters))) if kind == "char" else ByteVocabulary()


def _dtype(vocabulary: Vocabulary) -> np.dtype[Any]:
    return np.min_scalar_type(vocabulary.size - 1)


def _write(source: Source, vocabulary: Vocabulary, folder: Path) -> None:
    """tokens.bin, text.json and the vocabulary."""
    path = folder / "tokens.bin"
    lengths = [_append(path, encode([file], vocabulary)) for file in source.train]
    valid, test = (_append(path, encode(files, vocabulary)) for files in (source.valid, source.test))
    if len(lengths) > 1 and not source.valid:
        split = _set_apart(path, _dtype(vocabulary), lengths, source.shares[0])
        end = sum(lengths)
    else:
        split, end = _cut(source, sum(lengths), valid)
    if split < 2:
        count = sum(lengths) + valid + test
        raise ValueError(f"{source.name} holds only {count} token(s), too few to learn from")
    tokens = np.memmap(path, _dtype(vocabulary), mode="r")
    about = {
        "source": source.name,
        "dtype": tokens.dtype.str,
        "split": split,
        "test": end,
        "bytes_per_token": bytes_per_token(tokens[split:], vocabulary),
        "sha256": hashlib.sha256(tokens.data).hexdigest(),
    }
    (folder / "text.json").write_text(json.dumps(about, indent=2) + "\n", encoding="utf-8")
    vocabulary.save(folder)


def _cut(source: Source, train: int, valid: int) -> tuple[int, int]:
    """Where the tokens to validate on and those to test on begin."""
    if source.valid:
        return train, train + valid
    share, test = source.shares
    end = train - train * test // 100
    return end - max(train * share // 100, 2), end


def _set_apart(path: Path, dtype: np.dtype[Any], lengths: Sequence[int], share: int) -> int:
    """Put the last hundredths of each text behind all the rest: where they begin."""
    tokens, draft = np.memmap(path, dtype, mode="r"), path.with_name("draft.bin")
    ends = np.cumsum(lengths).tolist()
    cuts = [end - length * share // 100 for end, length in zip(ends, lengths, strict=True)]
    with draft.open("wb") as f:
        for begin, end in (*zip([0, *ends], cuts, strict=False), *zip(cuts, ends, strict=True)):
            f.write(tokens[begin:end].data)
        f.flush()
        os.fsync(f.fileno())
    del tokens  # Windows replaces no file that is mapped
    draft.replace(path)
    heads: int = sum(cuts) - sum(ends[:-1])
    return min(sum(lengths) - 2, heads)


def _append(path: Path, parts: Iterator[Tokens]) -> int:
    """Write tokens behind those already there; how many they are."""
    count = 0
    with path.open("ab") as f:
        for part in parts:
            f.write(part.tobytes())
            count += len(part)
        f.flush()
        os.fsync(f.fileno())
    return count


def _map(path: Path, dtype: str, sha256: str) -> Tokens:
    tokens = np.memmap(path, dtype=dtype, mode="r")
    if hashlib.sha256(tokens.data).hexdigest() != sha256:
        raise ValueError(f"{path.name} does not match its SHA-256")
    return tokens
