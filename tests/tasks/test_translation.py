"""Parallel text: which pairs are read and left out, how they are fed, and what translations are worth."""

import doctest
import gzip
from collections import Counter
from dataclasses import replace
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from recurra.models import Pair, classic, encoder_decoder
from recurra.models.translate import best, maps, saliency, translate
from recurra.tasks import translation
from recurra.tasks.parallel import find_pairs
from recurra.tasks.table import parse
from recurra.tasks.translation import Buckets, Translation, batch
from tools import wake

WORDS = ["ein", "zwei", "drei", "vier", "fünf", "sechs", "sieben"]


def _sentences(count: int) -> list[str]:
    draw = np.random.default_rng(0)
    return [" ".join(draw.choice(WORDS, draw.integers(1, 7))) for _ in range(count)]


def _write(folder: Path, name: str, lines: list[str]) -> str:
    path, data = folder / name, ("\n".join(lines) + "\n").encode()
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    return str(path)


def _sides() -> tuple[list[str], list[str]]:
    """300 pairs, of which two have an empty side."""
    source = _sentences(300)
    target = [line.upper() for line in source]
    source[3], target[250] = "", "  "
    return source, target


@pytest.fixture
def two(tmp_path: Path) -> tuple[str, str]:
    """Two files, one of them packed."""
    source, target = _sides()
    return _write(tmp_path, "a.de.gz", source), _write(tmp_path, "a.en", target)


@pytest.fixture
def data(two: tuple[str, str], tmp_path: Path) -> Translation:
    return parse("translation").prepare(two, tmp_path / "run", "bpe", 280, None)


def test_two_files_and_one_with_tabs_are_the_same(two: tuple[str, str], tmp_path: Path) -> None:
    lines = list(zip(*_sides(), strict=True))
    _write(tmp_path, "both.tsv", ["\ufeff" * (i == 0) + f"{a}\t{b}\tmore" for i, (a, b) in enumerate(lines)])
    found, other = find_pairs(two, ("", "")), find_pairs(str(tmp_path / "both.tsv"), ("", ""))
    assert (len(found.train), len(found.valid), len(found.test)) == (292, 3, 3)
    assert found.train.skipped == Counter(empty=2)
    assert (found.train, found.valid, found.test) == (other.train, other.valid, other.test)
    everything = Counter(found.train.sources + found.valid.sources + found.test.sources)
    assert everything == Counter(a for a, b in lines if a.strip() and b.strip())
    assert all(a.upper() == b for a, b in zip(found.train.sources, found.train.targets, strict=True))
    assert len(find_pairs(two, ("", ""), whole=True).test) == 298


def test_a_folder_has_parts_and_languages(tmp_path: Path) -> None:
    for part, count in (("train", 9), ("val", 3), ("test_2016_flickr", 2), ("test_2017", 4)):
        _write(tmp_path, f"{part}.de.gz", [f"{part} {i}" for i in range(count)])
        _write(tmp_path, f"{part}.en", [f"{part} {i}" for i in range(count)])
    _write(tmp_path, "README.md", ["what it is"])
    found = find_pairs(str(tmp_path), ("de", "en"))
    assert (len(found.train), len(found.valid), len(found.test)) == (9, 3, 2)
    assert found.name == f"{tmp_path}, de to en, tested on test_2016_flickr"
    assert len(find_pairs(str(tmp_path), ("en", "de"), "test_2017").test) == 4
    with pytest.raises(ValueError, match="holds de, en: name source and target of these, got 'de' and 'fr'"):
        find_pairs(str(tmp_path), ("de", "fr"))
    with pytest.raises(ValueError, match="holds nothing named test_2018"):
        find_pairs(str(tmp_path), ("de", "en"), "test_2018")
    for language, line in (("de", "ein"), ("en", "")):
        _write(tmp_path, f"test_2019.{language}", [line, "a"])
        _write(tmp_path, f"test_2020.{language}", [line])
    part = parse("translation:source=de,target=en,part=test_2019")
    assert part.prepare(str(tmp_path), tmp_path / "run", "byte", 0, None).skipped["empty"] == 1
    with pytest.raises(ValueError, match="test_2020, holds no pair of sentences"):
        find_pairs(str(tmp_path), ("de", "en"), "test_2020")


def test_what_is_wrong_is_named(two: tuple[str, str], tmp_path: Path) -> None:
    short = _write(tmp_path, "short.en", ["a"] * 299)
    with pytest.raises(ValueError, match=r"short.en ends after 299 lines, .*a.de.gz goes on"):
        find_pairs((two[0], short), ("", ""))
    with pytest.raises(ValueError, match="holds 5 pairs of sentences: at least 100"):
        find_pairs((few := _write(tmp_path, "few", ["a"] * 5), few), ("", ""))
    with pytest.raises(ValueError, match="line 1: a tab must stand between"):
        find_pairs(few, ("", ""))
    blank = _write(tmp_path, "blank", ["", " "])
    with pytest.raises(ValueError, match="holds no pair of sentences"):
        find_pairs((blank, blank), ("", ""), whole=True)
    with pytest.raises(ValueError, match="comments holds no pair of sentences"):
        find_pairs(_write(tmp_path, "comments", [";;; of the makers"]), ("", ""), whole=True)
    with pytest.raises(FileNotFoundError, match="nowhere is no file"):
        find_pairs((two[0], str(tmp_path / "nowhere")), ("", ""))
    (tmp_path / "latin").write_bytes("für".encode("latin1"))
    with pytest.raises(ValueError, match="latin is not UTF-8 text"):
        find_pairs((two[0], str(tmp_path / "latin")), ("", ""))
    with pytest.raises(ValueError, match="source: translation needs files"):
        parse("translation").prepare(None, tmp_path, "bpe", 280, None)
    with pytest.raises(ValueError, match="longest: no pair"):
        parse("translation:longest=1").prepare(two, tmp_path / "run", "byte", 280, None)


def test_a_run_keeps_its_pairs(data: Translation, tmp_path: Path) -> None:
    again = parse("translation").load(tmp_path / "run")
    assert again.train == data.train
    assert again.valid == data.valid
    assert again.size == data.size == 281
    assert data.skipped == Counter(empty=2)
    fewer = parse("translation:longest=4").load(tmp_path / "run")
    assert fewer.skipped["too long"] == len(data.train) - len(fewer.train) > 0
    assert max(len(side) for pair in fewer.train for side in pair) == 4
    (tmp_path / "run" / "pairs" / "pairs.json").write_text('{"name": "x"}')
    with pytest.raises(ValueError, match=r"pairs.json is damaged"):
        parse("translation").load(tmp_path / "run")


def test_an_epoch_has_every_pair_once_and_like_lengths_together(data: Translation) -> None:
    feed = data.feed(8, 0, 1, carry=False)
    steps = len(data.train) // 8
    seen: Counter[tuple[int, ...]] = Counter()
    padding = 0
    for step in range(steps):
        pair, targets = feed.batch(step)
        assert pair.source.shape[0] == len(targets) == 8
        padding += int((targets == -100).sum())
        seen.update(tuple(row[:n].tolist()) for row, n in zip(pair.source, pair.lengths, strict=True))
    everything = Counter((*one, feed.edge) for one, _ in data.train)
    assert seen <= everything
    assert seen.total() == steps * 8
    shuffled = Buckets(data.train, feed.edge, len(data.train), 1).batch(0)[1]
    assert padding < 0.2 * int((shuffled == -100).sum())
    same = data.feed(8, 0, 1, carry=False).batch(steps + 2)
    assert all(map(torch.equal, feed.batch(steps + 2)[0], same[0]))
    assert not torch.equal(feed.batch(0)[0].source, feed.batch(steps)[0].source)
    with pytest.raises(ValueError, match="carry"):
        data.feed(8, 0, 1, carry=True)
    with pytest.raises(ValueError, match="batch: 293 pairs make a step, there are 292"):
        data.feed(293, 0, 1, carry=False)


def test_no_pair_is_left_out_of_every_epoch(data: Translation) -> None:
    """Not the longest either, which stand where a sorted text ends."""
    assert len(data.train) % 8
    feed, seen = data.feed(8, 0, 1, carry=False), set()
    for step in range(6 * (len(data.train) // 8)):
        pair, _ = feed.batch(step)
        seen |= {tuple(row[:n].tolist()) for row, n in zip(pair.source, pair.lengths, strict=True)}
    assert seen == {(*one, feed.edge) for one, _ in data.train}


def test_worked_example() -> None:
    done = doctest.testmod(translation)
    assert done.attempted
    assert not done.failed


def test_perplexity_is_that_of_each_pair_alone(data: Translation) -> None:
    model, edge = encoder_decoder("mingru", "lstm", data.size, 8, 1).eval(), data.vocabulary.size
    nats = tokens = 0.0
    for one, other in zip(data.valid.sources, data.valid.targets, strict=True):
        pair, targets = batch([(data.vocabulary.encode(one), data.vocabulary.encode(other))], edge)
        nats += model.loss(pair, targets)[0].item() * targets.numel()
        tokens += targets.numel()
    assert data.score(model, 0, 99) == pytest.approx(np.exp(nats / tokens), rel=1e-4)
    assert data.better(3.0, 4.0)


def test_sentences_in_and_out(data: Translation) -> None:
    model = encoder_decoder("mingru", "mingru", data.size, 8, 1)
    with pytest.raises(ValueError, match="has no vocabulary"):
        next(translate(model, ["ein"]))
    model.vocabulary = data.vocabulary
    lines = ["ein zwei", "", "drei", "sechs sieben vier"]
    assert list(translate(model, [f" {line}\r" for line in lines], 2)) == list(translate(model, lines, 2))
    together, alone = list(translate(model, lines, 2)), list(translate(model, lines, 2, together=1))
    assert [[text for text, _ in answers] for answers in together] == [
        [text for text, _ in answers] for answers in alone
    ]
    assert together[1] == [("", 0.0)]
    assert [len(answers) for answers in together] == [2, 1, 2, 2]
    (hypotheses,) = best(model, [data.vocabulary.encode("drei")], data.vocabulary.size, 2)
    assert data.vocabulary.decode(hypotheses[0].tokens) == together[2][0][0]


def test_what_of_a_source_an_answer_comes_from() -> None:
    sides, sizes = ("mingru", "mingru"), (11, 8, 2)
    models = {"attention": [encoder_decoder(*sides, *sizes), classic(*sizes)]}
    models["saliency"] = [encoder_decoder(*sides, *sizes, cross=False)]
    for title, those in models.items():
        for model in those:
            found = maps(model, [1, 2, 3], [4, 5], 10)
            assert all(name.startswith(title) for name in found)
            for shares in found.values():
                assert shares.shape == (3, 4)
                assert shares.sum(-1).allclose(torch.ones(3))


def test_saliency_is_what_moves_the_probability() -> None:
    """Of a change of one word along its gradient, to the first order."""
    model = wake(encoder_decoder("mingru", "mingru", 11, 8, 2, cross=False)).double().eval()
    pair = Pair(torch.tensor([[1, 2, 10]]), torch.tensor([3]), torch.tensor([[10, 4]]))
    x, size = model.represented(pair.source).detach(), 1e-4

    def log_p(y: Tensor) -> Tensor:
        hidden, _ = model.hidden(pair.target, model.encoded(y, pair.lengths))
        return model.head(hidden)[0, 1].log_softmax(-1)[10]

    want = torch.zeros(3, dtype=torch.float64)
    for step, channel in product(range(3), range(8)):
        moved = torch.zeros_like(x)
        moved[0, step, channel] = size
        with torch.no_grad():
            want[step] += ((log_p(x + moved) - log_p(x - moved)) / (2 * size)).square()
    shares = saliency(model, pair, 10)[1].double()
    assert shares.allclose(want.sqrt() / want.sqrt().sum(), rtol=1e-4)


def test_scores_are_of_what_is_to_be_tested_on(data: Translation) -> None:
    model = encoder_decoder("mingru", "mingru", data.size, 8, 1)
    found = data.scores(model, 0)
    named = [name for name in found if name.endswith("@test")]
    assert named[:5] == ["bleu@test", "chrf@test", "perplexity@test", "exact@test", "error_rate@test"]
    kinds = {name.split()[0] for name in found if name not in named}
    assert kinds == {"bleu@length", "bleu@ratio"}
    lines = data.report(model, 0)
    assert "292 pairs to train on, 3 to test on" in lines[0]
    assert lines[1] == "pairs left out: 2 empty"
    assert len(lines) == 2 + len(found)
    assert "round_trip@test" not in found


def test_what_returns_is_held_against_the_source(data: Translation, monkeypatch: pytest.MonkeyPatch) -> None:
    model = encoder_decoder("mingru", "mingru", data.size, 8, 1)
    monkeypatch.setattr(
        translation, "translate", lambda back, written: ([(back, 0.0)] for _ in data.test.sources)
    )
    same, alien = (replace(data, back=line).scores(model, 0)["round_trip@test"] for line in ("ein", "QQ"))
    assert same > alien == 0


def test_samples_are_all_through_the_test(data: Translation) -> None:
    model = encoder_decoder("mingru", "mingru", data.size, 8, 1)
    pairs, written = data.samples(model, 2)
    assert pairs.sources == data.test.sources[:2]
    assert len(pairs.targets) == len(written) == 2
    edge, encode = data.vocabulary.size, data.vocabulary.encode
    alone = best(model, [encode(pairs.sources[1])], edge)[0][0].tokens
    assert written[1] == data.vocabulary.decode(alone)


LEXICON = """;;; a comment of the makers
'BOUT  B AW1 T
ABACUS  AE1 B AH0 K AH0 S

ABACUS(1)  AH0 B AE1 K AH0 S
"""


def test_a_lexicon_is_read_as_it_comes(tmp_path: Path) -> None:
    path = _write(tmp_path, "cmudict", LEXICON.splitlines())
    found = find_pairs(path, ("", ""), whole=True).test
    assert found.sources == ["'BOUT", "ABACUS"]
    assert found.targets == ["B AW1 T", "AE1 B AH0 K AH0 S"]
    assert found.skipped == Counter({"comments": 1, "second pronunciations": 1, "empty": 1})
    with pytest.raises(ValueError, match="line 2: two spaces must stand between"):
        find_pairs(_write(tmp_path, "broken", ["A  AH0", "B B IY1"]), ("", ""))
    tabs = _write(tmp_path, "tabs", ["a  b\tc  d", ";;;\te"])
    assert find_pairs(tabs, ("", ""), whole=True).test.targets == ["c  d", "e"]


def test_graphemes_and_phonemes_are_characters(tmp_path: Path) -> None:
    spelled = ["".join(c) for c in product("ABCDE", repeat=3)]
    path = _write(tmp_path, "lexicon", [f"{w}  {' '.join(w.lower())}" for w in spelled])
    data = parse("translation").prepare(path, tmp_path / "run", "char", 0, None)
    assert data.vocabulary.decode(data.train[0][1]) == " ".join(spelled[2].lower())
    found = data.scores(encoder_decoder("mingru", "mingru", data.size, 8, 1), 0)
    assert found["exact@test"] == 0
    assert found["error_rate@test"] > 0
