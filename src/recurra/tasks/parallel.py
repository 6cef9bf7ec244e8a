"""Sentences and their translations: which files are read, and which pairs are left out."""

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import zip_longest
from pathlib import Path

from recurra.tasks.sources import PACKED, pieces

__all__ = ["Given", "Pairs", "Parallel", "find_pairs", "lines_of"]

# One file or folder, or two files whose lines belong together.
Given = str | tuple[str, str]

PARTS = {"train": "train", "valid": "valid", "val": "valid", "dev": "valid", "test": "test"}
# What is held out where there is but one text, of every hundred pairs: to validate on, and to test on.
HELD_OUT = (1, 1)
# In a lexicon: the beginning of a line that is none of it, the end of a word that was there before, WORD(1).
COMMENT, AGAIN = ";;;", re.compile(r"\(\d+\)$")


@dataclass
class Pairs:
    """Sentences and their translations, and how many pairs were left out, by the reason."""

    sources: list[str] = field(default_factory=list)
    targets: list[str] = field(default_factory=list)
    skipped: Counter[str] = field(default_factory=Counter)

    def __len__(self) -> int:
        return len(self.sources)

    def add(self, source: str, target: str) -> None:
        """Take a pair, unless there is nothing on one of its sides."""
        if source.strip() and target.strip():
            self.sources.append(source.strip())
            self.targets.append(target.strip())
        else:
            self.skipped["empty"] += 1

    def every(self, step: int, first: int) -> "Pairs":
        """Every so many-th pair, from one on."""
        return Pairs(self.sources[first::step], self.targets[first::step])


@dataclass
class Parallel:
    """Pairs to train on, to validate on and to test on, and what they are called."""

    name: str
    train: Pairs
    valid: Pairs
    test: Pairs


def find_pairs(given: Given, languages: tuple[str, str], test: str = "", whole: bool = False) -> Parallel:
    """The pairs of two files, of a file whose lines hold both sides with a tab between, or of a folder.

    In a lexicon, in CMUdict's layout, two spaces stand for the tab; its comments and second pronunciations,
    `WORD(1)`, are left out. Files may be packed. Of one text two pairs of every hundred are held out; whole:
    all is to test on. A folder holds files such as train.de, val.de, test_2016.de.gz and the same of the
    other language; test: which part to test on, "" for the first by its name. Raises FileNotFoundError or
    ValueError that names the file.
    """
    if isinstance(given, str) and Path(given).is_dir():
        return _folder(Path(given), languages, test)
    pairs = _aligned(*map(Path, given)) if isinstance(given, tuple) else _table(Path(given))
    name = given if isinstance(given, str) else " and ".join(given)
    return Parallel(name, Pairs(), Pairs(), _some(name, pairs)) if whole else _split(name, pairs)


def _some(name: str, pairs: Pairs) -> Pairs:
    """These. Raises ValueError where there are none."""
    if not pairs:
        raise ValueError(f"{name} holds no pair of sentences")
    return pairs


def _split(name: str, pairs: Pairs) -> Parallel:
    """A hundredth to validate on, another to test on: the same of every text, all through it."""
    if len(pairs) < 100:
        raise ValueError(f"{name} holds {len(pairs)} pairs of sentences: at least 100 are needed")
    train = Pairs(skipped=pairs.skipped)
    for i, pair in enumerate(zip(pairs.sources, pairs.targets, strict=True)):
        if i % 100 >= sum(HELD_OUT):
            train.add(*pair)
    return Parallel(name, train, pairs.every(100, 0), pairs.every(100, 1))


def lines_of(path: Path) -> Iterator[str]:
    """Of a text, packed or not; only a line feed ends one."""
    if not path.is_file():
        raise FileNotFoundError(f"{path} is no file")
    rest = ""
    for piece in pieces(path, str(path)):
        *whole, rest = (rest + piece).split("\n")
        yield from whole
    if rest:
        yield rest


def _aligned(source: Path, target: Path) -> Pairs:
    found = Pairs()
    for count, (one, other) in enumerate(zip_longest(lines_of(source), lines_of(target))):
        if one is None or other is None:
            ended, longer = (source, target) if one is None else (target, source)
            raise ValueError(f"{ended} ends after {count:,} lines, {longer} goes on: they must have as many")
        found.add(one, other)
    return found


def _table(path: Path) -> Pairs:
    found, lexicon = Pairs(), _is_lexicon(path)
    between, said = ("  ", "two spaces") if lexicon else ("\t", "a tab")
    for number, line in enumerate(lines_of(path), 1):
        one, there, rest = line.partition(between)
        if lexicon and line.startswith(COMMENT):
            found.skipped["comments"] += 1
        elif lexicon and AGAIN.search(one):
            found.skipped["second pronunciations"] += 1
        elif line.strip() and not there:
            raise ValueError(f"{path}, line {number:,}: {said} must stand between source and target")
        else:
            found.add(one, rest.partition("\t")[0])
    return found


def _is_lexicon(path: Path) -> bool:
    """Whether in the first pair two spaces stand between the sides, and no tab; comments alone are one."""
    first = next((line for line in lines_of(path) if line.strip() and not line.startswith(COMMENT)), "")
    return not first or ("\t" not in first and "  " in first.strip())


def _folder(root: Path, languages: tuple[str, str], test: str) -> Parallel:
    files = _parts(root)
    known = sorted({language for part in files.values() for language in part})
    if any(language not in known for language in languages):
        raise ValueError(
            f"{root} holds {', '.join(known) or 'no languages'}: name source and target of these, "
            f"got {' and '.join(map(repr, languages))}"
        )
    whole = {
        part: tuple(of[language] for language in languages)
        for part, of in files.items()
        if {*languages} <= of.keys()
    }
    chosen = {
        kind: _chosen(root, kind, whole, test if kind == "test" else "")
        for kind in ("train", "valid", "test")
    }
    parts = ((f"{root}, {name},", _aligned(*whole[name])) for name in chosen.values())
    train, valid, tested = (_some(*part) for part in parts)
    return Parallel(f"{root}, {' to '.join(languages)}, tested on {chosen['test']}", train, valid, tested)


def _parts(root: Path) -> dict[str, dict[str, Path]]:
    """Files by the part and the language in their names: train.de, test_2016_flickr.en.gz."""
    found: dict[str, dict[str, Path]] = {}
    for path in sorted(root.iterdir()):
        name = path.name.removesuffix(path.suffix) if path.suffix in {*PACKED, ".zip"} else path.name
        part, dot, language = name.rpartition(".")
        if dot and _kind(part):
            found.setdefault(part, {})[language] = path
    return found


def _kind(part: str) -> str | None:
    return PARTS.get(re.split(r"[^a-z]", part, maxsplit=1)[0])


def _chosen(root: Path, kind: str, whole: Mapping[str, Sequence[Path]], wanted: str) -> str:
    names = [name for name in whole if _kind(name) == kind and wanted in {"", name}]
    if not names:
        raise ValueError(f"{root} holds nothing named {wanted or kind} in both languages")
    return names[0]
