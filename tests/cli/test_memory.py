"""`recurra memory` as a person types it."""

import csv
import math

import pytest

from recurra import language_model
from recurra.blocks import BLOCKS
from recurra.models import ByteVocabulary

pytest.importorskip("matplotlib")
TEXT = "To be, or\n<b>not</b> to be é"


def saved(folder, name, depth=2):
    language_model(name, 256, 8, depth).eval().save_pretrained(folder / "run", ByteVocabulary())
    return folder / "run"


def rows(path):
    with path.open(newline="", encoding="utf-8") as f:
        return list(csv.DictReader(f))


def test_half_lives_gates_and_two_texts(command, tmp_path):
    run = saved(tmp_path, ["mingru", "gru", "transformer"], 3)
    (tmp_path / "other.txt").write_text(TEXT.replace("be,", "me,") + " and more")
    words = ["--against", tmp_path / "other.txt", "--out", tmp_path / "out", "--tokens", "12"]
    code, out, err = command("memory", run, TEXT, *words)
    assert (code, err) == (0, "")
    assert "12 tokens of the words given. No half-lives of gru (block 1): its gates read its own past" in out
    assert "No half-lives of transformer (block 2): attention keeps" in out
    lives = rows(tmp_path / "out" / "half_life.csv")
    assert [(row["block"], row["channel"]) for row in lives] == [("0", str(i)) for i in range(8)]
    middle = sorted(float(row["half-life"]) for row in lives)
    assert any(f"{x:.3g}" in out for x in middle[3:5])
    gates = rows(tmp_path / "out" / "gates.csv")
    assert [row["token"] for row in gates] == ["T", "o", "␣", "b", "e", ",", "␣", "o", "r", "⏎", "<", "b"]
    assert {row["block"] for row in rows(tmp_path / "out" / "left.csv")} == {"0", "1"}
    against = rows(tmp_path / "out" / "against.csv")
    assert [math.isnan(float(row["distance"])) for row in against[::12]] == [False, False, True]
    assert [float(row["distance"]) > 0 for row in against[:5]] == [False] * 3 + [True] * 2
    page = (tmp_path / "out" / "memory.html").read_text(encoding="utf-8")
    assert page.count("<figure") == 6
    assert "<b>" not in page
    assert (tmp_path / "out" / "memory.png").stat().st_size
    assert (tmp_path / "out" / "memory.json").exists()
    assert command("memory", run, TEXT, "--out", tmp_path / "out")[0] == 0
    assert not (tmp_path / "out" / "against.csv").exists()


@pytest.mark.parametrize("name", BLOCKS)
def test_every_block_shows_what_it_can(name, command, tmp_path, monkeypatch):
    monkeypatch.setattr("recurra.cli.page.draw", lambda path, figures: None)
    run = saved(tmp_path, name)
    code, out, err = command("memory", run, "To be, or not")
    silent = name in {"slstm", "aaren", "s4", "transformer"}
    assert code == silent
    assert ("--against" in err) == silent
    assert err.count("\n") == silent
    assert silent or (run / "memory" / "memory.html").exists()
    code, out, err = command("memory", run, "To be, or not", "--against", "To me, or not")
    assert (code, err) == (0, "")
    assert "states of both texts" in (run / "memory" / "memory.html").read_text(encoding="utf-8")
    assert f"| {name} " in out


def test_without_matplotlib_there_is_no_png(command, tmp_path, monkeypatch):
    run = saved(tmp_path, "mingru")
    monkeypatch.setitem(__import__("sys").modules, "matplotlib.figure", None)
    code, _, err = command("memory", run, TEXT)
    assert code == 0
    assert err.startswith("recurra: no picture: matplotlib.figure is not installed")
    assert not (run / "memory" / "memory.png").exists()
    assert (run / "memory" / "memory.html").exists()


def test_faults_are_one_line(command, tmp_path):
    run = saved(tmp_path, "mingru")
    for words, named in (
        ([], "holds no text"),
        (["x"], "at least two tokens, got 1"),
        ([TEXT, "--against", "y"], "at least two tokens, got 1"),
    ):
        code, _, err = command("memory", run, *words)
        assert code == 1
        assert named in err
        assert err.count("\n") == 1
