"""The report of made-up results: ours beside what was published, scales apart, pictures in one page."""

import pytest

from recurra.papers import report
from recurra.papers.experiment import Experiment, Published, Scale, grid
from recurra.papers.figures import FIGURES
from recurra.papers.results import path_of, write

pytest.importorskip("matplotlib")


SHARES = ("scaled_accuracy", "accuracy", "whole")


def experiment():
    return Experiment(
        name="tiny",
        title="A tiny <grid>",
        paper="none",
        rows={"minGRU": {"model": "mingru", "width": 8}, "LSTM": {"model": "lstm", "width": 8}},
        columns={"one": {"task": "parity"}, "two": {"task": "even_pairs"}},
        scales={s: Scale({"depth": 1, "steps": n}, 2, {}) for s, n in (("small", 5), ("full", 9))},
        measure="scaled_accuracy@40",
        unit="scaled accuracy",
        factor=100,
        published=(
            Published("minGRU", "one", 3.5, "REC", 0.5),
            Published("S6", "two", 7.0, "R:x"),
        ),
        beside=("whole@*", "bleu@*"),
        figures=tuple(FIGURES),
        studies=("lenses",),
    )


def tables(score):
    """What studies leave; the state of attention can't be read."""
    block = {
        "block": 0,
        **{f"{name} {unit}": score for name in ("logit", "tuned") for unit in ("KL", "bits/byte")},
    }
    dose = {"behaviour": "markup", "on": "block", "multiplier": 1.0, "matching": score, "bits_per_byte": None}
    model = {"probe": "model", "Bob hard": 0.1, "Alice hard": 0.9}
    probes = [
        {"probe": "lda", "on": on, "block": 0, "Bob hard": score, "ceiling": 0.9} for on in ("block", "state")
    ]
    return {"lenses": [block, {"block": "model"}], "doses": [dose], "probes": [model, *probes]}


def made(run, score):
    return {
        "scores": {
            **{f"{name}@{n}": score for name in SHARES for n in (20, 40)},
            "bleu@length 3-9": 20 * score,
            "bleu@ratio 0.5-2": 30 * score,
        },
        "best": {"step": 3, "accuracy": score},
        "steps": run.config.steps,
        "tokens": 100,
        "seconds": 90.0,
        "parameters": 1234,
        "state": 16,
        "samples": {"source": ["ein Hund"], "reference": ["a dog"], "written": [f"a dog of {run.seed}"]},
        "signatures": {"bleu": "nrefs:1|case:mixed"},
        "tables": tables(score),
        "curve": {"step": [3, 5], "tokens": [60, 100], "seconds": [50.0, 90.0], "score": [0.1, score]},
        "machine": {
            "cpu": "a CPU",
            "threads": 1,
            "torch": "2",
            "recurra": "0",
            "native": "none",
            "date": "2026-01-01T00:00:00",
            "command": "recurra train --task parity",
        },
    }


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """The folder of a report where the full scale has one run, and LSTM none."""
    e, folder = experiment(), tmp_path_factory.mktemp("results")
    for run in grid(e, "small", ("minGRU",)):
        write(path_of(run, folder), made(run, 0.5 + 0.1 * run.seed))
    full = grid(e, "full", ("LSTM",), seeds=1)[0]
    write(path_of(full, folder), made(full, 0.9))
    report.write([e], folder)
    return folder


def test_ours_stand_beside_the_published(written):
    text = (written / "report.md").read_text()
    lines = [
        [cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines() if line[:1] == "|"
    ]
    header = [
        "model",
        "one, small",
        "one, full",
        "one, published",
        "two, small",
        "two, full",
        "two, published",
    ]
    table = {line[0]: dict(zip(header, line, strict=True)) for line in lines[:5]}
    assert lines[0] == header
    assert table["minGRU"]["one, small"] == "55 ± 7.1"
    assert table["minGRU"]["one, published"] == "3.5 ± 0.5 (reported, unverified)"
    assert table["minGRU"]["one, full"] == table["LSTM"]["one, small"] == report.NOT_RUN
    assert table["LSTM"]["one, full"] == "90 (1 of 2)"
    assert table["S6"]["two, published"] == "7 (reported)"
    assert table["S6"]["one, small"] == ""
    assert "recurra train --task parity" in text


def test_tables_of_studies_stand_beside_them(written):
    text = (written / "report.md").read_text()
    cells = [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines()]
    head = ["model", "setting", "scale", "seed", "block", "logit KL"]
    assert [*head, "logit bits/byte", "tuned KL", "tuned bits/byte"] in cells
    assert ["minGRU", "two", "small", "1", "0", *["0.6"] * 4] in cells
    assert ["LSTM", "one", "full", "0", "model", *[""] * 4] in cells


def test_other_scores_and_sentences_stand_beside_them(written):
    lines = [
        [cell.strip() for cell in line.split("|")[1:-1]]
        for line in (written / "report.md").read_text().splitlines()
    ]
    assert ["model", "setting", "scale", "whole@20", "whole@40"] in lines
    assert ["minGRU", "two", "small", "0.55 ± 0.071", "0.55 ± 0.071"] in lines
    assert ["LSTM", "one", "full", "18", "27"] in lines
    assert "`. bleu: `nrefs:1|case:mixed`\n" in (written / "report.md").read_text()
    sheet = (written / "tiny-small-samples.md").read_text()
    assert "    reference  a dog\n    minGRU     a dog of 0\n" in sheet
    assert "tiny-small-samples.md" in (written / "report.html").read_text()


def test_pictures_are_beside_the_text_and_in_the_page(written):
    names = {path.name for path in (written / "figures").iterdir()}
    assert names == {f"tiny-{scale}-{name}.png" for scale in ("small", "full") for name in FIGURES}
    page = (written / "report.html").read_text()
    assert page.count("data:image/png;base64,") == len(names)
    assert "A tiny &lt;grid&gt;" in page
    assert 'src="figures' not in page


def test_nothing_run_is_said(tmp_path):
    report.write([experiment()], tmp_path)
    text = (tmp_path / "report.md").read_text()
    assert text.count(report.NOT_RUN) == 4 + 1
    assert "![" not in text
