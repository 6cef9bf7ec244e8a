"""A text is what its files hold, in its vocabulary, split; anything that is no text is one clear error."""

import bz2
import io
import sys
from types import SimpleNamespace

import numpy as np
import pytest

from recurra.models.vocabulary import ByteVocabulary, CharVocabulary
from recurra.tasks.text import Text, encode, find, pieces, prepare

PROSE = "Die Sonne tönt, nach alter Weise, in Brudersphären Wettgesang.\n" * 40


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "prose.txt"
    path.write_text(PROSE, encoding="utf-8")
    return path


@pytest.mark.parametrize(("kind", "size"), [("byte", 0), ("char", 0), ("bpe", 300)])
def test_tokens_are_the_text_and_its_last_tenth_is_held_out(file, tmp_path, kind, size):
    text = prepare(str(file), tmp_path / "run" / "text", kind, size)
    whole = [*text.train.tolist(), *text.valid.tolist()]
    assert text.vocabulary.decode(whole) == PROSE
    assert len(text.valid) == len(whole) // 10
    bits = len(text.vocabulary.decode(text.valid.tolist()).encode()) / len(text.valid)
    assert text.bytes_per_token == pytest.approx(bits, rel=0.02)


def test_a_text_is_mapped_not_read(file, tmp_path):
    text = prepare(str(file), tmp_path / "text")
    assert isinstance(text.train, np.memmap)
    assert text.train.dtype == np.uint8


def test_what_is_packed_is_unpacked(file, tmp_path):
    packed = tmp_path / "prose.bz2"
    packed.write_bytes(bz2.compress(PROSE.encode()))
    assert "".join(pieces(packed, "prose")) == PROSE
    packed.write_bytes(packed.read_bytes()[:-9])
    with pytest.raises(ValueError, match="prose is cut off"):
        list(pieces(packed, "prose"))


def test_folders_give_their_text_files_in_order(tmp_path):
    for name, data in (
        ("b.txt", b"two"),
        ("a/c.md", b"one"),
        ("x.bin", b"a\0b"),
        ("y.bin", b"\xff\xfe"),
        ("z", b""),
    ):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(data)
    files = find(str(tmp_path)).train
    assert [f.name for f in files] == ["c.md", "b.txt"]
    assert b"".join(part.tobytes() for part in encode(files, ByteVocabulary())) == b"onetwo"


def test_the_library_holds_out_every_tenth_file():
    source = find(None)
    assert len(source.valid) == -(-(len(source.train) + len(source.valid)) // 10)
    assert not set(source.train) & set(source.valid)


def test_stdin(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(PROSE.encode())))
    text = prepare("-", tmp_path / "text", "char")
    assert text.source == "stdin"
    assert len(text.train) + len(text.valid) == len(PROSE)
    assert [p.name for p in tmp_path.iterdir()] == ["text"]


def test_characters_may_lie_across_pieces(tmp_path, monkeypatch):
    monkeypatch.setattr("recurra.tasks.text.PIECE", 3)
    path = tmp_path / "x"
    path.write_text("aäöü€𝄞z" * 5, encoding="utf-8")
    assert "".join(pieces(path, "x")) == "aäöü€𝄞z" * 5


@pytest.mark.parametrize(
    ("data", "named"),
    [
        (None, "does not exist"),
        (b"", "is empty"),
        (b"x", "only 1 token"),
        (b" \n\t\n", "white space"),
        (b"caf\xe9 au lait", "not UTF-8"),
        (b"cut \xe2\x82", "not UTF-8"),
        (b"MZ\0\0 program", "zero byte"),
    ],
)
def test_what_is_no_text_is_named(tmp_path, data, named):
    path = tmp_path / "input"
    if data is not None:
        path.write_bytes(data)
    with pytest.raises((ValueError, FileNotFoundError), match=named) as fault:
        prepare(str(path), tmp_path / "run" / "text")
    assert str(path) in str(fault.value)
    assert not list((tmp_path / "run").iterdir())


def test_a_folder_without_text_is_named(tmp_path):
    (tmp_path / "x").write_bytes(b"\0")
    with pytest.raises(ValueError, match="holds no text file"):
        find(str(tmp_path))


def test_a_vocabulary_that_lacks_a_character_says_so(file, tmp_path):
    with pytest.raises(ValueError, match="character"):
        prepare(str(file), tmp_path / "text", vocabulary=CharVocabulary.of("abc"))


def test_a_failure_leaves_the_text_that_is_there(file, tmp_path):
    prepare(str(file), tmp_path / "text")
    (tmp_path / "empty").touch()
    with pytest.raises(ValueError, match="is empty"):
        prepare(str(tmp_path / "empty"), tmp_path / "text")
    assert Text.load(tmp_path / "text").vocabulary.size == 256


def _flip(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def _cut(path):
    path.write_bytes(path.read_bytes()[:-3])


@pytest.mark.parametrize(
    ("name", "damage"), [("tokens.bin", _flip), ("tokens.bin", _cut), ("text.json", _cut)]
)
def test_damage_is_named(file, tmp_path, name, damage):
    folder = tmp_path / "text"
    prepare(str(file), folder)
    damage(folder / name)
    with pytest.raises(ValueError, match="is damaged") as fault:
        Text.load(folder)
    assert str(folder) in str(fault.value)
