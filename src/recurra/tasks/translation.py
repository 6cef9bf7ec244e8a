"""Translation: sentences of two files, line by line, in pieces of words that both languages share.

A sentence ends with the token behind those of the vocabulary, which also stands in front of what the decoder
reads.

>>> feed = Buckets([([5, 6], [7]), ([8], [9, 5])], edge=10, rows=2, seed=0)
>>> pair, targets = feed.batch(0)
>>> pair.source, pair.lengths
(tensor([[ 5,  6, 10],
        [ 8, 10, 10]]), tensor([3, 2]))
>>> pair.target, targets
(tensor([[10,  7, 10],
        [10,  9,  5]]), tensor([[   7,   10, -100],
        [   9,    5,   10]]))
"""

import json
import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch
from torch import Tensor

from recurra.models.cross_entropy import IGNORED
from recurra.models.files import read_json, write_alone
from recurra.models.pairs import Pair
from recurra.models.translate import best, padded, translate
from recurra.models.vocabulary import (
    BPEVocabulary,
    ByteVocabulary,
    CharVocabulary,
    Vocabulary,
    load_vocabulary,
)
from recurra.tasks.losses import CHUNK, device_of
from recurra.tasks.parallel import Given, Pairs, find_pairs
from recurra.tasks.quality import Measures, by_quarter, measured, quality

__all__ = ["Buckets", "Judged", "Translation", "TranslationFiles"]

FILE = "pairs.json"
# Batches of which the pairs of like lengths are sorted together.
SORTED = 50

Coded = tuple[list[int], list[int]]


def batch(pairs: Sequence[Coded], edge: int) -> tuple[Pair, Tensor]:
    """Sources with their end, what the decoder reads, and what it has to write."""
    source, lengths = padded([[*one, edge] for one, _ in pairs], edge)
    target, _ = padded([[edge, *other] for _, other in pairs], edge)
    written, _ = padded([[*other, edge] for _, other in pairs], IGNORED)
    return Pair(source, lengths, target), written


@dataclass(frozen=True, eq=False)
class Buckets:
    """All pairs once an epoch, those of like lengths together, in another order each time."""

    pairs: Sequence[Coded]
    edge: int
    rows: int
    seed: int

    def fresh(self, step: int) -> bool:
        """True: no pair goes on from another."""
        return True

    def batch(self, step: int) -> tuple[Pair, Tensor]:
        """The pairs of a step; in each epoch other ones are left out, fewer than fill a batch."""
        epoch, place = divmod(step, len(self.pairs) // self.rows)
        return batch([self.pairs[i] for i in _epoch(self, epoch)[place]], self.edge)


@lru_cache(maxsize=2)
def _epoch(feed: Buckets, epoch: int) -> list[list[int]]:
    """Which pairs go together: sorted by length in stretches of a random order, the batches shuffled."""
    draw, stretch = np.random.default_rng((feed.seed, epoch)), SORTED * feed.rows
    # Before they are sorted: of a sorted stretch the longest would be left out, of a small text always.
    whole = len(feed.pairs) // feed.rows * feed.rows
    order, batches = draw.permutation(len(feed.pairs))[:whole].tolist(), []
    for first in range(0, whole, stretch):
        near = sorted(order[first : first + stretch], key=lambda i: tuple(map(len, reversed(feed.pairs[i]))))
        batches += [near[i : i + feed.rows] for i in range(0, len(near), feed.rows)]
    return [batches[i] for i in draw.permutation(len(batches))]


class Judged(NamedTuple):
    """What translations are worth, and BLEU of parts of them, by length and by ratio of lengths."""

    measures: Measures
    parts: dict[str, float]


@dataclass(frozen=True, eq=False)
class Translation:
    """Pairs to train on, to validate on and to test on, in one vocabulary; skipped: what was left out.

    back: a model of the other direction, which tells how much of the source comes back.
    """

    train: Sequence[Coded]
    valid: Pairs
    test: Pairs
    vocabulary: Vocabulary
    source: str
    skipped: Counter[str]
    back: Any = None

    name: ClassVar[str] = "translation"
    metric: ClassVar[str] = "perplexity"
    channels: ClassVar[int] = 0
    paired: ClassVar[bool] = True

    @property
    def size(self) -> int:
        """Tokens of the vocabulary, and the edge of a sentence."""
        return self.vocabulary.size + 1

    def feed(self, rows: int, context: int, seed: int, carry: bool) -> Buckets:
        """Raises ValueError where the state is to be carried, or a batch is of more pairs than there are."""
        if carry:
            raise ValueError("carry: no sentence goes on from another")
        if rows > len(self.train):
            raise ValueError(f"batch: {rows} pairs make a step, there are {len(self.train)} to train on")
        return Buckets(self.train, self.vocabulary.size, rows, seed)

    def measures(self, loss: float) -> dict[str, float]:
        """Perplexity of the targets' tokens."""
        return {self.metric: math.exp(min(loss, 50.0))}

    def better(self, score: float, than: float) -> bool:
        """Whether it is lower."""
        return score < than

    def score(self, model: Any, context: int, count: int) -> float:
        """Perplexity of `count` held-out translations, all through them; more than there are: of all."""
        return self._perplexity(model, self._valid[:: max(len(self._valid) // count, 1)])

    @cached_property
    def _valid(self) -> list[Coded]:
        return _coded(self.valid, self.vocabulary)

    def scores(self, model: Any, context: int, lengths: Sequence[int] = ()) -> dict[str, float]:
        """BLEU, chrF, perplexity and `tasks.quality` on what is to be tested on, `bleu@test`; BLEU of parts
        of it by tokens of the source, `bleu@length 9-12`, and by tokens of the reference for each of those,
        `bleu@ratio 1-2`.
        """
        measures, parts = self.judged(model)
        return {f"{name}@test": value for name, (value, _) in measures.items()} | parts

    def report(self, model: Any, context: int, lengths: Sequence[int] = ()) -> list[str]:
        """The same for people, with the signatures that sacrebleu gives, and with what the others are."""
        skipped = ", ".join(f"{count:,} {why}" for why, count in self.skipped.items()) or "none"
        lines = [f"{self.source}: {len(self.train):,} pairs to train on, {len(self.test):,} to test on"]
        measures, parts = self.judged(model)
        lines += [f"pairs left out: {skipped}"]
        lines += [f"{name:12} {_said(name, value)}  {about}" for name, (value, about) in measures.items()]
        return lines + [f"{name:20} {value:.2f}" for name, value in parts.items()]

    def judged(self, model: Any) -> Judged:
        """Each measure with its signature; sentences as a beam of five finds them."""
        sources, wanted = self.test.sources, self.test.targets
        written = self._written(model, self.test)
        perplexity = self._perplexity(model, _coded(self.test, self.vocabulary))
        measures = {**measured(written, wanted), self.metric: (perplexity, "a token of the references")}
        measures |= quality(sources, wanted, written)
        if self.back is not None:
            returned = [answers[0][0] for answers in translate(self.back, written)]
            measures["round_trip"] = (
                measured(returned, sources)["chrf"][0],
                "chrF of the sources that return",
            )
        return Judged(measures, self._parts(written))

    def samples(self, model: Any, count: int = 20) -> tuple[Pairs, list[str]]:
        """At most so many pairs all through those to test on, and what the model writes for them."""
        chosen = self.test.every(max(len(self.test) // count, 1), 0)
        chosen = Pairs(chosen.sources[:count], chosen.targets[:count])
        return chosen, self._written(model, chosen)

    def _written(self, model: Any, pairs: Pairs) -> list[str]:
        edge, encode = self.vocabulary.size, self.vocabulary.encode
        found = best(model, [encode(line) for line in pairs.sources], edge)
        return [self.vocabulary.decode(hypotheses[0].tokens) for hypotheses in found]

    def _parts(self, written: Sequence[str]) -> dict[str, float]:
        """BLEU by the length of the source and by the ratio of lengths, both in tokens."""

        def bleu(lines: Sequence[int]) -> float:
            return measured([written[i] for i in lines], [self.test.targets[i] for i in lines])["bleu"][0]

        lengths = [(len(one), len(other)) for one, other in _coded(self.test, self.vocabulary)]
        by_length = by_quarter("bleu@length", [one for one, _ in lengths], bleu)
        return by_length | by_quarter("bleu@ratio", [other / max(one, 1) for one, other in lengths], bleu)

    @torch.no_grad()
    def _perplexity(self, model: Any, pairs: Sequence[Coded]) -> float:
        nats, tokens = 0.0, 0
        for rows in _of_like_lengths(pairs):
            pair, targets = batch(rows, self.vocabulary.size)
            pair = Pair(*(x.to(device_of(model)) for x in pair))
            asked = int((targets != IGNORED).sum())
            nats += model.loss(pair, targets.to(device_of(model)))[0].item() * asked
            tokens += asked
        return self.measures(nats / tokens)[self.metric]


def _said(name: str, value: float) -> str:
    """Shares with more digits than what goes up to a hundred and beyond."""
    return f"{value:.2f}" if name in {"bleu", "chrf", "perplexity", "round_trip"} else f"{value:.4f}"


def _of_like_lengths(pairs: Sequence[Coded]) -> Iterator[Sequence[Coded]]:
    ordered, first = sorted(pairs, key=lambda pair: len(pair[1])), 0
    while first < len(ordered):
        rows = max(CHUNK // (len(ordered[first][1]) + 1), 1)
        yield ordered[first : first + rows]
        first += rows


def _coded(pairs: Pairs, vocabulary: Vocabulary) -> list[Coded]:
    both = zip(pairs.sources, pairs.targets, strict=True)
    return [(vocabulary.encode(one), vocabulary.encode(other)) for one, other in both]


@dataclass(frozen=True)
class TranslationFiles:
    """Pairs of two files, of one with tabs, or of a folder that has `source` and `target` as languages.

    part: which part of a folder to test on. Pairs of more than `longest` tokens on a side are left out.
    """

    source: str = ""
    target: str = ""
    part: str = ""
    longest: int = 128

    context: ClassVar[int] = 128
    paired: ClassVar[bool] = True
    kind: ClassVar[str] = "bpe"

    def prepare(
        self, source: Given | None, run: Path, kind: str, size: int, vocabulary: Vocabulary | None
    ) -> Translation:
        """Keep the sentences and their vocabulary in the run's folder, whole or not at all.

        Raises ValueError or FileNotFoundError that names what is wrong.
        """
        if source is None:
            raise ValueError("source: translation needs files: SOURCE TARGET, a file with tabs, or a folder")
        found = find_pairs(source, (self.source, self.target), self.part)
        parts = {part: getattr(found, part) for part in ("train", "valid", "test")}
        sentences = {part: [pairs.sources, pairs.targets] for part, pairs in parts.items()}
        skipped = sum((pairs.skipped for pairs in parts.values()), Counter[str]())
        body = {"name": found.name, "skipped": dict(skipped), **sentences}
        folder = run / "pairs"
        folder.mkdir(parents=True, exist_ok=True)
        (vocabulary or _vocabulary(list(parts.values()), kind, size)).save(folder)
        write_alone(folder / FILE, json.dumps(body, ensure_ascii=False).encode())
        return self.load(run)

    def load(self, run: Path) -> Translation:
        """Raises ValueError where it is damaged."""
        path = run / "pairs" / FILE
        body = read_json(path, path.read_bytes())
        try:
            train, valid, test = (Pairs(*body[part]) for part in ("train", "valid", "test"))
            name, skipped = str(body["name"]), Counter(body["skipped"])
        except (KeyError, TypeError, ValueError) as e:
            raise ValueError(f"{path} is damaged: {e!r}") from e
        vocabulary = load_vocabulary(run / "pairs")
        coded = _coded(train, vocabulary)
        short = [pair for pair in coded if max(map(len, pair)) <= self.longest]
        skipped += Counter({"too long": len(coded) - len(short)})
        if not short:
            raise ValueError(f"longest: no pair of {name} has at most {self.longest} tokens on a side")
        return Translation(short, valid, test, vocabulary, name, skipped)

    def read(self, source: Given, vocabulary: Vocabulary | None) -> Translation:
        """Other pairs in the vocabulary of a model, all to test on."""
        if vocabulary is None:
            raise ValueError(f"{source} can't be read: the model has no vocabulary")
        found = find_pairs(source, (self.source, self.target), self.part, whole=True)
        return Translation([], found.test, found.test, vocabulary, found.name, found.test.skipped)


def _vocabulary(parts: Sequence[Pairs], kind: str, size: int) -> Vocabulary:
    """Of both sides together: pieces of what there is to train on, the first part; characters of all."""
    if kind == "byte":
        return ByteVocabulary()
    if kind == "char":
        return CharVocabulary.of("".join(line for pairs in parts for line in _both(pairs)))
    with TemporaryDirectory() as folder:
        path = Path(folder) / "both"
        path.write_text("\n".join(_both(parts[0])) + "\n", encoding="utf-8")
        return BPEVocabulary.train([path], size)


def _both(pairs: Pairs) -> list[str]:
    return [*pairs.sources, *pairs.targets]
