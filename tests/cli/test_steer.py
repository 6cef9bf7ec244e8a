"""`recurra steer` as a person types it."""

import csv
import json

import pytest

from recurra import language_model
from recurra.interp import Place, load_vectors
from recurra.models import ByteVocabulary, load


@pytest.fixture
def saved(tmp_path):
    language_model("mamba", 256, 8, 2).eval().save_pretrained(tmp_path / "run", ByteVocabulary())
    keys = ("question", "answer_matching_behavior", "answer_not_matching_behavior")
    rows = [
        (f"Stop {i}?\n (A) Yes\n (B) No", *(("(A)", "(B)") if i % 2 else ("(B)", "(A)"))) for i in range(10)
    ]
    (tmp_path / "ab.json").write_text(json.dumps([dict(zip(keys, row, strict=True)) for row in rows]))
    return tmp_path


def test_a_table_of_doses_and_the_vectors(command, saved, monkeypatch):
    monkeypatch.setattr("recurra.cli.page.draw", lambda path, figures: None)
    words = ["--state", "--block", "1", "--multiplier", "0", "--multiplier", "-2", "--text", "3"]
    code, out, err = command("steer", saved / "run", saved / "ab.json", *words)
    assert code == 0
    assert "6 settings, 8 pairs to find them, 2 to judge by" in err
    with (saved / "run" / "steer" / "steer.csv").open() as f:
        rows = list(csv.DictReader(f))
    assert [row["on"] for row in rows[::2]] == ["block", "state", "block+state"]
    assert [float(row["multiplier"]) for row in rows[:2]] == [0, -2]
    assert float(rows[0]["change"]) == 0
    assert all(f"{float(row['bits/byte']):.3g}" in out for row in rows)
    vectors = load_vectors(saved / "run" / "steer" / "vectors.safetensors", load(saved / "run"))
    assert set(vectors) == {Place("block", 1), Place("state", 1)}
    assert (saved / "run" / "steer" / "steer.json").exists()
    page = (saved / "run" / "steer" / "steer.html").read_text(encoding="utf-8")
    assert page.count('role="grid"') == 3
    assert page.count("<svg") == 3 * 2


def test_faults_are_one_line(command, saved):
    (saved / "few.csv").write_text("prompt,matching,not_matching\nab,c,d\n")
    for words, named in (
        (["few.csv"], "--test"),
        (["none.json"], "none.json"),
        (["ab.json", "--method", "pca"], "pca"),
        (["ab.json", "--block", "2"], "block must be below 2"),
    ):
        code, _, err = command("steer", saved / "run", saved / words[0], *words[1:])
        assert code == 1
        assert named in err
        assert err.count("\n") == 1
