"""What is done to trained models, on some that have learned nothing: what is read, chosen and left behind."""

from dataclasses import replace

import pytest
import torch

from recurra.interp.doses import Dose
from recurra.interp.tuning import Recipe
from recurra.models import language_model
from recurra.papers import behaviours, studies, work
from recurra.papers.behaviours import BEHAVIOURS, CHOOSING, JUDGING, passages
from recurra.papers.experiment import grid
from recurra.papers.table import EXPERIMENTS
from recurra.tasks.quirky.facts import Facts
from recurra.tasks.text import prepare
from recurra.train import checkpoint
from recurra.train.config import TrainConfig

CONFIG = TrainConfig(context=16, windows=4, device="cpu")
KINDS = ("mingru", "transformer")
# Of each of the three kinds of text some stretches.
MIXTURE = {
    "dialogue": "\n\nFirst Lord:\nThou hast a crown, and I do love thy crown.\n\nKING:\nWhat say you of it?",
    "markup": "\nThe '''crown''' is a [[hat]] of the [[king]], see [[crown|crowns]] and [[queen]].",
    "prose": "\n The crown is worn by kings , and by queens , of many lands . It is of gold . \n",
}


def model(kind):
    torch.manual_seed(0)
    return language_model(kind, 256, width=8, depth=2).eval()


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    folder = tmp_path_factory.mktemp("mixture")
    for name, line in MIXTURE.items():
        (folder / name).write_text(line * 200)
    return prepare(str(folder), folder / "run" / "text")


@pytest.mark.parametrize("kind", KINDS)
def test_lenses(kind, text, monkeypatch):
    monkeypatch.setattr(studies, "RECIPE", Recipe("adam", 1e-3, 0.0, steps=2, tokens=64, context=256))
    scores, tables = studies.lenses(model(kind), text, CONFIG)
    first, *_, last = tables["lenses"]
    assert (first["block"], last["block"]) == (0, "model")
    assert scores["logit KL at half depth"] == pytest.approx(first["logit KL"], abs=1e-5)
    assert scores["blocks where the tuned lens is nearer"] in {0, 1}
    assert ("state KL" in first) == (kind == "mingru")
    assert last["tuned bits/byte"] == pytest.approx(text.score(model(kind), 16, 4), abs=1e-4)
    assert scores["bits_per_byte@4 windows"] == pytest.approx(last["tuned bits/byte"], abs=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_steering(kind, text, monkeypatch):
    for name, value in (("DOSES", (-1.0, 0.0, 1.0)), ("PASSAGES", 4), ("WRITTEN", 2), ("DRAWN", 2)):
        monkeypatch.setattr(behaviours, name, value)
    scores, tables = studies.steering(model(kind), text, CONFIG)
    places = ["block", "state", "block+state"] if kind == "mingru" else ["block"]
    told = ["text that shows it", "text that does not", "nothing"]
    assert [(row["behaviour"], row["on"]) for row in tables["steering"]] == [
        (behaviour.name, on) for behaviour in BEHAVIOURS for on in told + places
    ]
    assert all(("p of signs" in row) == (row["on"] in places) for row in tables["steering"])
    assert len(tables["doses"]) == len(BEHAVIOURS) * len(places) * 3
    assert all(row["bits_per_byte"] > 0 for row in tables["doses"])
    assert all(row["change"] == 0 for row in tables["doses"] if row["multiplier"] == 0)
    assert not scores


def test_prompts_that_judge_chose_nothing():
    assert not set(CHOOSING) & set(JUDGING)
    for behaviour in BEHAVIOURS:
        asked = [behaviour.prompts(about) for about in (CHOOSING, JUDGING)]
        assert sum(map(len, asked)) >= 60
        assert all(own != other for prompts in asked for _, own, other in prompts)
        assert all(len(own) == len(other) for prompts in asked for _, own, other in prompts)
    assert ("\nO king, ", "in ", "my ") in BEHAVIOURS[0].prompts(CHOOSING)


def test_the_largest_change_upwards_is_chosen():
    changes = {(0, 0.0): 0.0, (0, 1.0): 0.1, (0, 3.0): -0.5, (1, -3.0): 0.9, (1, 1.0): 0.2, (1, 3.0): 0.5}
    ruined = {(1, 3.0): 0.96}
    doses = [Dose("block", *at, 0.5, x, x, x, 1.0, ruined.get(at, 0.9), None) for at, x in changes.items()]
    assert behaviours._chosen(doses) == {"block": (1, 1.0)}
    doses = [dose._replace(on="state", nonsense=0.99 if dose.multiplier else 0.9) for dose in doses]
    assert behaviours._chosen(doses) == {"state": (1, 3.0)}


def test_passages_hold_what_they_show(text):
    whole = text.vocabulary.decode(text.valid.tolist())
    for behaviour in BEHAVIOURS:
        shown, lacking = (passages(whole, pattern) for pattern in (behaviour.shows, behaviour.lacks))
        assert len(shown) == len(lacking) == behaviours.PASSAGES
        assert not set(shown) & set(lacking)
        assert all(part.endswith(" ") for part in shown + lacking)
    assert "Lord:" in passages(whole, BEHAVIOURS[0].lacks)[0]
    assert "[[" in passages(whole, BEHAVIOURS[1].shows)[0]
    with pytest.raises(ValueError, match=r"has 0 passage\(s\) with 'none', fewer than 2"):
        passages(whole, "none")


@pytest.mark.parametrize("kind", KINDS)
def test_knowledge(kind, monkeypatch):
    pytest.importorskip("sklearn")
    monkeypatch.setattr(studies, "STATEMENTS", 40)
    config = TrainConfig(task="facts", context=8, device="cpu")
    scores, tables = studies.knowledge(model(kind), Facts(), config)
    own, *printed = tables["knowledge"]
    pairs = next(row for row in printed if (row["probe"], row["on"]) == studies.PROBE)
    assert scores["recoverable gap"] == pytest.approx(pairs["ceiling"] - own["Bob hard"], abs=1e-4)
    if pairs["recovered"] is not None:
        assert scores["recovered"] == pytest.approx(pairs["recovered"], abs=1e-4)
        assert scores["recovered by the best"] >= scores["recovered"]
    assert own["probe"] == "model"
    assert 0 <= own["Bob hard"] <= 1
    assert len(tables["probes"]) == 1 + len(printed) * 2  # of two blocks each
    assert {row["on"] for row in printed} == ({"block", "state"} if kind == "mingru" else {"block"})


@pytest.fixture
def plan(tmp_path, monkeypatch):
    """Of a quirky run, so small that it takes a moment, with a study that says what it saw."""
    small = {"width": 8, "depth": 1, "context": 8, "steps": 2, "windows": 4, "device": "cpu"}
    monkeypatch.setattr("recurra.tasks.quirky.common.SEQUENCES", 16)
    monkeypatch.setattr("recurra.tasks.sampled.SEQUENCES", 16)
    seen = {
        "seen": lambda model, data, config: studies.Studied({"blocks": len(model.blocks)}, {"seen": [{}]})
    }
    monkeypatch.setattr(work, "STUDIES", seen)
    return {
        "options": {**small, "task": "facts", "lr": 0.0},
        "before": {"task": "facts:lies=0", "lr": 1e-3},
        "studies": ["seen"],
        "about": {"experiment": "tiny"},
        "folder": str(tmp_path / "run"),
        "threads": torch.get_num_threads(),
    }


def test_a_run_begins_with_another_and_trains_once(plan, tmp_path):
    made = work.work(plan)
    assert made["scores"]["blocks"] == 1
    assert made["tables"] == {"seen": [{}]}
    assert made["config"]["init"] == "before"
    command = "recurra train --width 8 --depth 1 --context 8 --steps 2 --windows 4 --device cpu --task facts"
    first, then = ":lies=0 --lr 0.001 --out before", "--lr 0.0 --init before"
    assert made["machine"]["command"] == f"{command}{first} && {command} {then}"
    first, last = (checkpoint.last(folder) for folder in (tmp_path / "run" / "before", tmp_path / "run"))
    weights = [(folder / "model.safetensors").read_bytes() for folder in (first, last)]
    assert weights[0] == weights[1]
    again = work.work(plan)
    assert {**again, "machine": None} == {**made, "machine": None}
    assert checkpoint.last(tmp_path / "run") == last


def test_what_is_trained_first_is_part_of_the_name():
    run, *_ = grid(EXPERIMENTS["quirky"], "small")
    assert run.before == {"task": "additions:lies=0"}
    other, none = (replace(run.experiment, before=one) for one in ({"additions": {"steps": 1}}, {}))
    assert run._replace(experiment=none).before is None
    names = {one.name for one in (run, run._replace(experiment=other), run._replace(experiment=none))}
    assert len(names) == 3


def test_every_study_of_an_experiment_is_known():
    for e in EXPERIMENTS.values():
        assert set(e.studies) <= studies.STUDIES.keys()
        assert e.before.keys() <= e.columns.keys()
