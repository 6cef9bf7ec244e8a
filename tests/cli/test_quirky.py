"""Quirky tasks as a person types them: first what is true, or mere text, then a Bob who lies."""

import pytest

from recurra.train import checkpoint

SMALL = ["--batch", "2", "--steps", "1", "--lr", "0", "--windows", "2", "--device", "cpu"]
SHAPE = ["--width", "8", "--depth", "1"]


@pytest.mark.parametrize("start", ["--task facts:lies=0", "prose.txt"])
def test_a_run_may_start_from_one_that_read_the_same(command, tmp_path, monkeypatch, start):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("recurra.tasks.quirky.common.SEQUENCES", 16)
    monkeypatch.setattr("recurra.tasks.sampled.SEQUENCES", 16)
    (tmp_path / "prose.txt").write_text("To be, or not to be: that is the question.\n" * 200)
    code, _, err = command("train", *start.split(), *SMALL, *SHAPE, "--out", "start")
    assert code == 0, err
    code, _, err = command("train", "--init", "start", "--task", "facts", *SMALL, "--out", "quirky")
    assert code == 0, err
    before, after = (checkpoint.last(tmp_path / run) for run in ("start", "quirky"))
    assert (before / "model.safetensors").read_bytes() == (after / "model.safetensors").read_bytes()
    assert checkpoint.options(after).task == "facts"
    code, out, err = command("eval", "quirky")
    assert code == 0, err
    for who in ("Alice easy", "Alice hard", "Bob easy", "Bob hard"):
        assert f"length {who:>7}  accuracy" in out
    code, out, err = command("generate", "quirky", "--tokens", "2", "--prompt", "Kipepa is in Doria. Alice:")
    assert code == 0, err


def test_faults_are_one_line(command, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "prose.txt").write_text("To be, or not to be: that is the question.\n" * 200)
    for words in (
        ["prose.txt", "--vocabulary", "char", "--out", "char"],
        ["--task", "parity", "--out", "bits"],
    ):
        assert command("train", *words, *SMALL, *SHAPE)[0] == 0
    for start, named in (
        ("char", "vocabulary must be byte for additions, got char"),
        ("bits", "task is parity"),
    ):
        code, _, err = command("train", "--init", start, "--task", "additions", *SMALL, "--out", "quirky")
        assert code in {1, 2}
        assert named in err
        assert err.count("\n") == 1
