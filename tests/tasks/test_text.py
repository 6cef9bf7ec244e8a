"""A text is what its files hold, in its vocabulary, split; anything that is no text is one clear error."""

import bz2
import gzip
import io
import sys
import zipfile
from types import SimpleNamespace

import numpy as np
import pytest

from recurra.models.vocabulary import ByteVocabulary, CharVocabulary
from recurra.tasks.sources import find, pieces
from recurra.tasks.text import Text, encode, prepare

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
    monkeypatch.setattr("recurra.tasks.sources.PIECE", 3)
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


def _split(source, folder, **how):
    text = prepare(str(source), folder / "run" / "text", **how)
    parts = (text.train, text.valid, [] if text.test is None else text.test)
    return [text.vocabulary.decode(list(part)) for part in parts]


PARTS = {
    "wikitext": ("wiki.train.tokens", "wiki.valid.tokens", "wiki.test.tokens"),
    "raw": ("wiki.train.raw", "wiki.valid.raw", "wiki.test.raw"),
    "penn": ("ptb.train.txt", "ptb.valid.txt", "ptb.test.txt"),
    "plain": ("train.txt", "validation.txt", "test.txt"),
}


@pytest.mark.parametrize("names", PARTS.values(), ids=PARTS)
def test_a_set_in_parts(tmp_path, names):
    """As WikiText comes: a folder of three files, of which none is cut."""
    texts = [f" = {part} = \n\n The <unk> of {part} @-@ like . \n" * 9 for part in ("Train", "Valid", "Test")]
    (tmp_path / "set").mkdir()
    for name, text in zip(names, texts, strict=True):
        (tmp_path / "set" / name).write_text(text)
    assert _split(tmp_path / "set", tmp_path) == texts
    (tmp_path / "set" / names[2]).unlink()
    assert _split(tmp_path / "set", tmp_path) == [*texts[:2], ""]
    (tmp_path / "set" / "README").write_text("more")
    train, valid = _split(tmp_path / "set", tmp_path)[:2]
    assert train == "more" + "".join(text[: len(text) - len(text) // 10] for text in texts[:2])
    assert valid == "".join(text[len(text) - len(text) // 10 :] for text in texts[:2])


def test_of_a_folder_the_end_of_each_file_is_held_out(tmp_path):
    """So that all that there is to learn is also judged, however the files are called."""
    (tmp_path / "set").mkdir()
    for name, letter, size in (("a", "a", 57), ("b", "b", 9), ("c", "c", 100)):
        (tmp_path / "set" / name).write_text(letter * size)
    assert _split(tmp_path / "set", tmp_path)[:2] == ["a" * 52 + "b" * 9 + "c" * 90, "a" * 5 + "c" * 10]
    for name in "ac":
        (tmp_path / "set" / name).write_text("dd")
    assert _split(tmp_path / "set", tmp_path)[:2] == ["dd" + "b" * 9, "dd"]


@pytest.mark.parametrize("name", ["enwik8", "text8", "enwik8.bz2", "text8.zip", "folder"])
def test_large_texts_hold_out_five_and_five_hundredths(tmp_path, name):
    """As the field splits 100 MB into 90, 5 and 5; a cut may lie in a letter, and so in bytes it is exact."""
    text = "one nine five three of the year \u00e9" * 40
    data, path = text.encode(), tmp_path / name
    if name.endswith(".zip"):
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("text8", data)
    elif name == "folder":
        path.mkdir()
        (path / "enwik8").write_bytes(data)
    else:
        path.write_bytes(bz2.compress(data) if name.endswith("bz2") else data)
    split = prepare(str(path), tmp_path / "run" / "text")
    got = [bytes(part.tolist()) for part in (split.train, split.valid, split.test)]
    fifth = len(data) * 5 // 100
    assert got == [data[: -2 * fifth], data[-2 * fifth : -fifth], data[-fifth:]]


def test_tiny_shakespeare_holds_out_its_last_tenth(tmp_path):
    play = "First Citizen:\nBefore we proceed any further, hear me speak.\n\n" * 30
    (tmp_path / "input.txt").write_text(play)
    train, valid, test = _split(tmp_path / "input.txt", tmp_path, kind="char")
    assert train + valid == play
    assert len(valid) == len(play) // 10
    assert not test


def test_a_model_is_judged_by_what_there_is_to_test_on(tmp_path):
    from recurra.models import language_model  # noqa: PLC0415
    from recurra.tasks.losses import bits, text_loss  # noqa: PLC0415

    (tmp_path / "text8").write_text("a b c d e f g h " * 50)
    text, model = (
        prepare(str(tmp_path / "text8"), tmp_path / "text"),
        language_model("mingru", 256, 4, 1).eval(),
    )
    want = bits(text_loss(model, text.test), text.bytes_per_token)
    assert text.scores(model, 8)["bits_per_byte@whole"] == want
    assert list(text.scores(model, 8, [4, 9])) == [
        "bits_per_byte@4",
        "bits_per_byte@9",
        "bits_per_byte@whole",
    ]


def test_attention_does_not_read_a_long_text_as_a_whole(file, tmp_path, monkeypatch):
    from recurra.models import language_model  # noqa: PLC0415

    text = prepare(str(file), tmp_path / "text")
    monkeypatch.setattr("recurra.tasks.text.LONGEST", len(text.valid) - 1)
    for kind, named in (("mingru", ["8", "whole"]), ("transformer", ["8"])):
        scores = text.scores(language_model(kind, 256, 4, 1).eval(), 8)
        assert list(scores) == [f"bits_per_byte@{name}" for name in named]


@pytest.mark.parametrize("suffix", [".gz", ".xz", ".zip"])
def test_packed_files_that_are_not_are_named(tmp_path, suffix):
    path = tmp_path / f"text{suffix}"
    path.write_text("not packed at all")
    with pytest.raises(ValueError, match="damaged") as fault:
        prepare(str(path), tmp_path / "run" / "text")
    assert str(path) in str(fault.value)


def test_packed_text_for_bpe_is_named(tmp_path):
    (tmp_path / "text.gz").write_bytes(gzip.compress(PROSE.encode()))
    with pytest.raises(ValueError, match="is packed: unpack it"):
        prepare(str(tmp_path / "text.gz"), tmp_path / "run" / "text", "bpe", 300)
