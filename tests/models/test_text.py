"""From tokens to text: whole characters, stop texts across tokens; vocabularies and their files."""

import json
import re
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor

from recurra.models import BPEVocabulary, ByteVocabulary, CharVocabulary, Vocabulary, pieces, write
from recurra.models.vocabulary import load_vocabulary

TEXT = "Zwölf Boxkämpfer 🥊 jagen\nEva quer über den Sylter Deich. " * 3


def _train(folder: Path) -> BPEVocabulary:
    (folder / "text").write_text(TEXT, encoding="utf8")
    return BPEVocabulary.train([folder / "text"], 300)


@pytest.fixture(name="vocabulary", params=["byte", "char", "bpe"])
def _vocabulary(request: pytest.FixtureRequest, tmp_path: Path) -> Vocabulary:
    if request.param == "bpe":
        pytest.importorskip("tokenizers")
        return _train(tmp_path)
    return ByteVocabulary() if request.param == "byte" else CharVocabulary.of(TEXT)


def _stream(vocabulary: Vocabulary, *texts: str) -> list[Tensor]:
    """What `generate` would give for rows that come out as these texts, the shorter ones going on."""
    rows = [vocabulary.encode(text) for text in texts]
    longest = max(map(len, rows))
    return [torch.tensor([row[t] if t < len(row) else row[0] for row in rows]) for t in range(longest)]


# ----------------------------------------------------------------------------------------------
# Text.


def test_text_comes_back(vocabulary: Vocabulary) -> None:
    steps: list[list[str]] = []
    assert write(_stream(vocabulary, TEXT), vocabulary, callback=steps.append) == [TEXT]
    assert "".join(step[0] for step in steps) == TEXT
    assert not any("�" in step[0] for step in steps)


@pytest.mark.parametrize(
    ("stop", "want"),
    [
        ("jagen\nEva", "Zwölf Boxkämpfer 🥊 "),
        (["Deich", "\nE"], "Zwölf Boxkämpfer 🥊 jagen"),
        ("🥊", "Zwölf Boxkämpfer "),
        ("Z", ""),
        ("nowhere", TEXT),
        # The held back beginning of a stop text turns out to be none, and ends with the text.
        ("Deich. X", TEXT),
        ((), TEXT),
    ],
)
def test_stop(vocabulary: Vocabulary, stop: str | list[str], want: str) -> None:
    steps = [step[0] for step in pieces(_stream(vocabulary, TEXT), vocabulary, stop)]
    assert "".join(steps) == want


def test_each_row_stops_alone(vocabulary: Vocabulary) -> None:
    taken = 0

    def stream() -> object:
        nonlocal taken
        for tokens in _stream(vocabulary, "Eva jagen quer. den", "Box quer über den", "Sylter" * 20):
            taken += 1
            yield tokens

    texts = write(stream(), vocabulary, [".", "über", "SylterSylter"])
    assert texts == ["Eva jagen quer", "Box quer ", ""]
    assert taken < len(_stream(vocabulary, "Sylter" * 20))


def test_no_steps(vocabulary: Vocabulary) -> None:
    assert write([], vocabulary) == []
    assert list(pieces([], vocabulary)) == []
    with pytest.raises(ValueError, match="stop must not hold an empty text"):
        write(_stream(vocabulary, "E"), vocabulary, "")


def test_bytes_that_are_no_text() -> None:
    assert write([torch.tensor([b]) for b in b"a\xffb\xc3"], ByteVocabulary()) == ["a�b�"]


# ----------------------------------------------------------------------------------------------
# Vocabularies.


def test_encode_and_decode(vocabulary: Vocabulary) -> None:
    tokens = vocabulary.encode(TEXT)
    assert vocabulary.encode(TEXT.encode()) == tokens
    assert vocabulary.decode(tokens) == TEXT
    assert vocabulary.encode("") == []
    assert set(tokens) <= set(range(vocabulary.size))
    assert vocabulary.count_bytes(torch.tensor(tokens)) == len(TEXT.encode())
    assert (
        vocabulary.count_bytes(torch.tensor(tokens, dtype=torch.uint8 if vocabulary.size <= 256 else None))
        > 0
    )


def test_file(vocabulary: Vocabulary, tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    vocabulary.save(folder)
    again = load_vocabulary(folder)
    assert [path.name for path in folder.iterdir()] == [vocabulary.FILE]
    assert type(again) is type(vocabulary)
    assert list(again.pieces) == list(vocabulary.pieces)
    assert again.encode(TEXT) == vocabulary.encode(TEXT)
    assert again.to_bytes() == vocabulary.to_bytes()


def test_any_text_in_bytes_and_pairs(tmp_path: Path) -> None:
    pytest.importorskip("tokenizers")
    foreign = "日本語\x00\r\n <s> Ġ" + "".join(map(chr, range(1, 0x250)))
    for vocabulary in (ByteVocabulary(), _train(tmp_path)):
        assert vocabulary.decode(vocabulary.encode(foreign)) == foreign
    assert _train(tmp_path).pieces == _train(tmp_path).pieces


def test_char_vocabulary() -> None:
    assert CharVocabulary.of("hello").encode("hole") == [1, 3, 2, 0]
    with pytest.raises(ValueError, match=r"the character 'x', at 2, is none of the 4 of this vocabulary"):
        CharVocabulary.of("hello").encode("hexe")
    for wrong in ("", "aa"):
        with pytest.raises(ValueError, match="characters must be different ones"):
            CharVocabulary(wrong)


def test_missing_extra(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    (tmp_path / "tokenizer.json").write_text("{}")
    for call in (lambda: BPEVocabulary.train([], 256), lambda: load_vocabulary(tmp_path)):
        with pytest.raises(ImportError, match=re.escape("pip install 'recurra[bpe]'")):
            call()


def test_small_bpe() -> None:
    with pytest.raises(ValueError, match="size must be at least 256"):
        BPEVocabulary.train([], 255)


FOREIGN = {
    "empty": b"",
    "no json": b"{",
    "no text": b"\xff\xfe",
    "list": b"[]",
    "deep": b"[" * 100_000,
    "no kind": b"{}",
    "kind": json.dumps({"kind": "word"}).encode(),
    "twice": b'{"kind": "byte", "kind": "byte"}',
    "more": json.dumps({"kind": "byte", "size": 3}).encode(),
    "characters": json.dumps({"kind": "char", "characters": ["a", "b"]}).encode(),
    "number": json.dumps({"kind": "char", "characters": 3}).encode(),
    "repeated": json.dumps({"kind": "char", "characters": "aa"}).encode(),
    "surrogate": b'{"kind": "char", "characters": "\\ud800"}',
    "word level": json.dumps(
        {"version": "1.0", "model": {"type": "WordLevel", "vocab": {"a ": 0}, "unk_token": "a"}}
    ).encode(),
}


@pytest.mark.parametrize("name", ["vocabulary.json", "tokenizer.json"])
@pytest.mark.parametrize("case", list(FOREIGN))
def test_foreign_files(case: str, name: str, tmp_path: Path) -> None:
    if name == "tokenizer.json":
        pytest.importorskip("tokenizers")
    path = tmp_path / name
    path.write_bytes(FOREIGN[case])
    with pytest.raises(ValueError, match=re.escape(str(path))):
        load_vocabulary(tmp_path)


def test_no_file(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=re.escape(str(tmp_path))):
        load_vocabulary(tmp_path)
