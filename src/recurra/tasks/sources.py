"""Where a text comes from: which files are read, which are held out, and what is in them."""

import bz2
import codecs
import gzip
import lzma
import re
import sysconfig
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

__all__ = ["PACKED", "Source", "find", "pieces"]

PIECE = 1 << 20
NOT_SOURCE = {"test", "tests", "idle_test", "site-packages", "dist-packages"}
# Texts of 100 MB of which the field holds out 5 MB to validate on and 5 to test, by the names of their files.
LARGE = {"enwik8", "text8"}
# What a file is for, by its name: wiki.train.tokens, ptb.valid.txt, test.txt.
PART = re.compile(r"(?:^|[._-])(train|valid|test)(?:ation|ing)?(?:[._-]|$)")
PACKED: dict[str, Any] = {".gz": gzip.open, ".bz2": bz2.open, ".xz": lzma.open}
# What unpackers raise; bz2 and gzip also an OSError.
DAMAGE = (EOFError, OSError, zlib.error, lzma.LZMAError, zipfile.BadZipFile)


@dataclass(frozen=True)
class Source:
    """Files to train on, to validate on and to test on.

    shares: the hundredths at the end of each file to train on that are held out where there is none to
    validate on; then, of a single file, the last of all, to test on.
    """

    name: str
    train: Sequence[Path]
    valid: Sequence[Path] = ()
    test: Sequence[Path] = ()
    shares: tuple[int, int] = (10, 0)


def find(source: str | None) -> Source:
    """The files of a file, a folder or, for None, of Python's own library (every tenth file held out).

    A folder of one file to train on, to validate on and perhaps to test on is taken so, by their names; of
    enwik8 and text8, packed or not, the field's shares are held out; of any other file its last tenth.
    Raises FileNotFoundError for what is not there, ValueError for a folder without text.
    """
    if source is None:
        root = Path(sysconfig.get_paths()["stdlib"])
        files = [f for f in sorted(root.rglob("*.py")) if not NOT_SOURCE & set(f.parts) and _is_text(f)]
        held_out = set(files[::10])
        return Source("Python's library", [f for f in files if f not in held_out], sorted(held_out))
    path = Path(source)
    if not path.exists():
        raise FileNotFoundError(f"{source} does not exist")
    if not path.is_dir():
        return _one(source, path)
    seen = (f for f in path.rglob("*") if not any(p.startswith(".") for p in f.relative_to(path).parts))
    files = [f for f in sorted(seen) if _is_text(f)]
    if not files:
        raise ValueError(f"{source} holds no text file")
    return _one(source, files[0]) if len(files) == 1 else _parts(source, files) or Source(source, files)


def _one(name: str, path: Path) -> Source:
    return Source(name, [path], shares=(5, 5) if path.name.split(".")[0] in LARGE else (10, 0))


def _parts(name: str, files: Sequence[Path]) -> Source | None:
    """A set that comes in parts, a file each; None where these are other files."""
    found = {match[1]: file for file in files if (match := PART.search(file.name))}
    if len(found) < len(files) or "train" not in found:
        return None
    train, valid, test = ([found[part]] if part in found else [] for part in ("train", "valid", "test"))
    return Source(name, train, valid, test)


def pieces(path: Path, name: str) -> Iterator[str]:
    """The text of a file, unpacked where it is .bz2, .gz, .xz or .zip, about a megabyte at a time.

    A byte order mark is no part of it. Raises ValueError where it is not UTF-8 text, or is cut off.
    """
    decoder, place = codecs.getincrementaldecoder("utf-8-sig")(), 0
    with _opened(path, name) as f:
        while True:
            try:
                data = f.read(PIECE)
                piece = decoder.decode(data, final=not data)
            except UnicodeDecodeError as e:
                raise ValueError(f"{name} is not UTF-8 text ({e.reason} near byte {place:,})") from e
            except DAMAGE as e:
                raise ValueError(f"{name} is cut off or damaged near byte {place:,}") from e
            if "\0" in piece:
                raise ValueError(f"{name} is not text (it holds a zero byte near byte {place:,})")
            if not data:
                return
            place += len(data)
            yield piece


def _opened(path: Path, name: str) -> IO[bytes]:
    """To be read as bytes; of an archive, the one file that is in it."""
    if path.suffix in PACKED:
        packed: IO[bytes] = PACKED[path.suffix](path)
        return packed
    if path.suffix != ".zip":
        return path.open("rb")
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
            if len(names) != 1:
                raise ValueError(f"{name} holds {len(names)} files: unpack it")
            return archive.open(names[0])
    except zipfile.BadZipFile as e:
        raise ValueError(f"{name} is damaged: {e}") from e


def _is_text(path: Path) -> bool:
    """Whether all of a file is text, and any of it more than white space."""
    try:
        return path.is_file() and bool("".join(piece.strip()[:1] for piece in pieces(path, str(path))))
    except ValueError:
        return False
