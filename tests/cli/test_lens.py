"""`recurra lens` as a person types it."""

import csv

import pytest

from recurra import language_model
from recurra.interp import load_lens
from recurra.models import ByteVocabulary, load

QUICK = ["--steps", "2", "--windows", "2"]


@pytest.fixture
def saved(tmp_path):
    language_model("mingru", 256, 8, 2).eval().save_pretrained(tmp_path / "run", ByteVocabulary())
    (tmp_path / "prose.txt").write_text("To be, or not to be: that is the question.\n" * 20)
    return tmp_path


def test_help(command):
    code, out, err = command("lens", "--help")
    assert code == 0
    assert out.startswith("Usage: recurra lens [OPTIONS]")
    assert not err


def test_a_table_by_depth_and_the_lenses(command, saved, monkeypatch):
    monkeypatch.setattr("recurra.cli.page.draw", lambda path, figures: None)
    code, out, err = command("lens", saved / "run", saved / "prose.txt", *QUICK, "--state")
    assert code == 0
    assert "tuned lens, 2 steps" in err
    with (saved / "run" / "lens" / "depth.csv").open() as f:
        rows = list(csv.DictReader(f))
    assert [row["block"] for row in rows] == ["0", "1", "model"]
    assert rows[1]["tuned KL"] == ""  # of the last block there is only its state
    assert all(float(rows[-1][f"{name} KL"]) == 0 for name in ("logit", "tuned", "state"))
    assert all(float(row["state bits/byte"]) > 0 for row in rows)
    assert all(f"{float(row['state KL']):.3g}" in out for row in rows[:2])
    model = load(saved / "run")
    for name in ("tuned", "state"):
        load_lens(saved / "run" / "lens" / f"{name}.safetensors", model)
    assert (saved / "run" / "lens" / "depth.json").exists()
    page = (saved / "run" / "lens" / "lens.html").read_text(encoding="utf-8")
    assert page.count('role="grid"') == 3
    assert all(f"{name} lens: the likeliest" in page for name in ("logit", "tuned", "state"))
    assert page.count("<svg") == 2


def test_faults_are_one_line(command, saved):
    for words, named in (([], "holds no text"), ([saved / "short.txt"], "short.txt")):
        (saved / "short.txt").write_text("To be")
        code, _, err = command("lens", saved / "run", *words, *QUICK)
        assert code == 1
        assert named in err
        assert err.count("\n") == 1
