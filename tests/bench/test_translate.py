import json

import pytest

from recurra.bench import translate
from recurra.cli import bench
from recurra.models.search import beam_search


def test_models_of_equal_parameters():
    counts = [translate.parameters(config) for config in translate.equal(translate.MODELS, 256)]
    assert counts == pytest.approx([counts[0]] * 3, rel=0.03)
    with pytest.raises(ValueError, match="model must be of mingru"):
        translate.equal(["mingru", "nonsense"], 64)


def test_translate_leaves_csv_and_record(tmp_path, monkeypatch, read):
    """Every answer has the same length, whatever a model would write."""
    found = []

    def searched(*given):
        found.extend(len(hypotheses[0].tokens) for hypotheses in beam_search(*given))

    monkeypatch.setattr(translate, "beam_search", searched)
    monkeypatch.setattr(translate, "BATCHES", (1, 3))
    monkeypatch.setattr(translate, "TRAINED", 2)
    monkeypatch.setattr(translate, "LENGTH", 4)
    monkeypatch.setattr(translate, "VOCABULARY", 20)
    bench.translate("mingru,classic", width=8, repeats=1, threads=1, out=tmp_path)
    rows = read(tmp_path / "translate.csv")
    cases = [("train", "2", "")] + [("translate", b, k) for b in "13" for k in "15"]
    assert [(row["part"], row["batch"], row["beam"]) for row in rows] == [
        case for case in cases for _ in range(2)
    ]
    assert [row["model"] for row in rows] == ["mingru", "classic"] * 5
    assert all(float(row["sentences_per_s"]) > 0 for row in rows)
    assert set(found) == {4}
    assert json.loads((tmp_path / "translate.json").read_text())["threads"] == 1
