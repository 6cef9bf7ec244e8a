"""`recurra probe` as a person types it."""

import csv
import json

import pytest

from recurra import language_model
from recurra.interp import PROBES
from recurra.models import ByteVocabulary

CONTEXTS = ("Alice easy", "Alice hard", "Bob easy", "Bob hard")
FEW = ["--statements", "40"]


@pytest.fixture
def saved(tmp_path):
    language_model("mingru", 256, 8, 2).eval().save_pretrained(tmp_path / "model", ByteVocabulary())
    return tmp_path


def test_a_table_of_probes_and_a_picture(command, saved):
    for package in ("matplotlib", "sklearn"):
        pytest.importorskip(package)
    words = ["--width", "8", "--depth", "2", "--steps", "1", "--batch", "2", "--windows", "2"]
    code, _, err = command("train", "--task", "facts", *words, "--context", "8", "--out", saved / "run")
    assert code == 0, err
    code, out, err = command("probe", saved / "run", *FEW)
    assert code == 0, err
    assert "24 probes, 40 statements of each context" in err
    with (saved / "run" / "probe" / "probe.csv").open() as f:
        model, *rows = list(csv.DictReader(f))
    assert model["probe"] == "model"
    assert [row["probe"] for row in rows] == [*PROBES] * 4
    assert [(row["on"], row["block"]) for row in rows[:: len(PROBES)]] == [
        ("block", "0"),
        ("block", "1"),
        ("state", "0"),
        ("state", "1"),
    ]
    assert all(0 <= float(row[name]) <= 1 for row in rows for name in CONTEXTS)
    assert sum(row["chosen"] == "1" for row in rows) == 2 * len(PROBES)
    assert all(f"{float(row['Bob hard']):.3g}" in out for row in rows if row["chosen"] == "1")
    about = json.loads((saved / "run" / "probe" / "probe.json").read_text())
    assert (about["task"], about["context"], about["statements"]) == ("facts", 8, 40)
    page = (saved / "run" / "probe" / "probe.html").read_text(encoding="utf-8")
    assert all(f"AUROC, Bob hard: probes on each {on}" in page for on in ("block", "state"))
    assert (saved / "run" / "probe" / "probe.png").stat().st_size > 1000


def test_a_saved_model_and_what_is_to_be_read(command, saved, monkeypatch):
    """Without matplotlib, too."""
    monkeypatch.setitem(__import__("sys").modules, "matplotlib.figure", None)
    words = ["--task", "additions:speaker=first", "--method", "crc", "--on", "layer", "--block", "1", *FEW]
    code, out, err = command("probe", saved / "model", *words, "--out", saved / "there")
    assert code == 0, err
    assert 'recurra: no picture: matplotlib.figure is not installed: pip install "recurra[interp]"' in err
    assert [line.split("|")[1:4] for line in out.splitlines()[2:4]] == [
        [" model ", "       ", "       "],
        [" crc   ", " layer ", " 1     "],
    ]
    assert (saved / "there" / "probe.csv").exists()


def test_faults_are_one_line(command, saved):
    language_model("mingru", 256, 8, 2).eval().save_pretrained(saved / "bare")
    language_model("transformer", 256, 8, 2).eval().save_pretrained(saved / "attention", ByteVocabulary())
    quirky = ["--task", "facts", *FEW]
    for words, named in (
        (["model"], "holds a model without its task: name one by --task"),
        (["model", "--task", "parity"], "task must be one of statements, additions, facts, got parity"),
        (["model", *quirky, "--method", "pca"], "probes must be of logistic"),
        (["model", *quirky, "--block", "2"], "block must be below 2"),
        (["model", *quirky, "--on", "head"], "kind must be one of block, layer, state"),
        (["model", *quirky, "--context", "1"], "context must be 2 to"),
        (["bare", *quirky], "holds no vocabulary"),
        (["attention", *quirky, "--on", "state"], "the state of attention can't"),
        (["none", *quirky], "none"),
    ):
        code, _, err = command("probe", saved / words[0], *words[1:])
        assert code == 1
        assert named in err
        assert err.count("\n") == 1
