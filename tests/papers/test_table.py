"""The experiments as laws over their table: every run can be made, is matched, costed, and has its tags."""

from collections import Counter
from pathlib import Path

import pytest

from recurra.papers.experiment import SCALES, TRUST, grid
from recurra.papers.figures import FIGURES
from recurra.papers.matching import TOLERANCE, frozen, matched, parameters
from recurra.papers.table import EXPERIMENTS, GROUPS

RESULTS = Path(__file__).parents[2] / "results" / "reproduce"
every = pytest.mark.parametrize("e", EXPERIMENTS.values(), ids=list(EXPERIMENTS))


def size(run):
    return parameters(frozen({key: value for key, value in run.options.items() if key != "seed"}))


@every
def test_every_run_can_be_made_and_matches_its_reference(e):
    for scale in SCALES:
        runs = {(run.row, run.column): run for run in grid(e, scale, seeds=1)}
        for run in runs.values():
            assert run.config.precision in {"32-true", "bf16-mixed"}
            if e.reference:
                reference = runs[e.reference, run.column]
                assert abs(size(run) / size(reference) - 1) <= TOLERANCE
                assert run.config.depth == reference.config.depth


@every
def test_seeds_change_nothing_but_the_seed(e):
    first, *_, last = grid(e, "small", seeds=2)
    assert (first.seed, last.seed) == (0, 1)
    names = [run.name for scale in SCALES for run in grid(e, scale)]
    assert len(set(names)) == len(names)
    again = next(run for run in grid(e, "small", seeds=2) if run[:4] == first[:4] and run.seed == 1)
    assert {**again.options, "seed": 0} == first.options


@every
def test_costs_are_stated(e):
    for scale in SCALES:
        assert e.scales[scale].minutes.keys() == e.rows.keys()
        assert all(run.minutes > 0 for run in grid(e, scale))


@every
def test_published_numbers_have_a_place_and_a_tag(e):
    for number in e.published:
        assert number.column in e.columns
        assert number.tag.partition(":")[0] in TRUST
        assert ("unverified" in number.says) == number.tag.startswith("REC")
    assert len({(p.row, p.column) for p in e.published}) == len(e.published)


@every
def test_figures_are_known(e):
    assert set(e.figures) <= FIGURES.keys()


def test_the_small_scale_fits_the_budget():
    minutes = {
        name: sum(run.minutes for e in group for run in grid(e, "small")) for name, group in GROUPS.items()
    }
    assert minutes.pop("seq2seq") <= 3 * 60
    assert minutes.pop("inside") <= 170
    assert sum(minutes.values()) <= 11 * 60


def test_groups_hold_each_experiment_once_under_names_of_their_own():
    assert sum(map(len, GROUPS.values())) == len(EXPERIMENTS)
    assert not GROUPS.keys() & EXPERIMENTS.keys()


@every
def test_rows_with_fewer_seeds_are_rows(e):
    for scale in e.scales.values():
        assert scale.fewer.keys() <= e.rows.keys()
        assert all(0 < count < scale.seeds for count in scale.fewer.values())


def test_a_row_may_take_fewer_seeds():
    runs = grid(EXPERIMENTS["ratio"], "small")
    counts = Counter(run.row for run in runs if run.column == "1:1")
    assert counts == {"minGRU": 3, "Transformer": 3, "minGRU, no attention": 1}
    assert [run.seed for run in runs] == sorted(run.seed for run in runs)
    assert len(grid(EXPERIMENTS["ratio"], "small", ("minGRU, no attention",), seeds=2)) == 14


@pytest.mark.parametrize(
    "folder",
    sorted({path.parent for path in RESULTS.glob("*/*/*.json")}),
    ids=lambda f: f"{f.parent.name}-{f.name}",
)
def test_results_belong_to_runs(folder):
    """A name holds a hash of the options: where those change, the results of finished runs are lost."""
    names = {run.name for run in grid(EXPERIMENTS[folder.parent.name], folder.name)}
    assert {path.stem for path in folder.glob("*.json")} <= names


def test_unknown_rows_are_named():
    with pytest.raises(ValueError, match=r"copying has the models minGRU, minLSTM, got 'S6'"):
        grid(EXPERIMENTS["copying"], "small", ("S6",))


def test_what_can_not_be_matched_is_named():
    small = frozen({"task": "parity", "model": "mingru", "width": 2, "depth": 1})
    with pytest.raises(ValueError, match="no width of gru has"):
        matched(frozen({"task": "parity", "model": "gru", "depth": 3}), small)
