"""A tiny grid from its first step to its results: killed, gone on with, and skipped where it is done."""

import time
from dataclasses import replace

import pytest

from recurra.papers.experiment import Experiment, Scale, grid
from recurra.papers.results import find
from recurra.papers.runner import Places, Runner, folder_of
from recurra.papers.work import command
from recurra.train import checkpoint
from recurra.train.metrics import rows

TINY = {
    "task": "selective_copying:count=2",
    "context": 8,
    "depth": 1,
    "batch": 2,
    "steps": 6,
    "every": 3,
    "windows": 4,
    "device": "cpu",
}


def experiment(before=None, **options):
    return Experiment(
        name="tiny",
        title="A tiny grid",
        paper="none",
        rows={"minGRU": {"model": "mingru", "width": 8}},
        columns={"two": {}},
        scales={"small": Scale({**TINY, **options}, 2, {"minGRU": 0.1})},
        measure="accuracy@{context}",
        before=before or {},
    )


@pytest.fixture
def places(tmp_path):
    return Places(tmp_path / "runs", tmp_path / "results", None)


def run_all(runs, places):
    return Runner(runs, places, jobs=1, threads=1)()


def test_results_are_left_and_not_made_again(places):
    runs = grid(experiment(), "small", seeds=1)
    assert run_all(runs, places) == {}
    made = find(runs[0], places.results)
    assert made["steps"] == 6
    assert made["tokens"] == 6 * 2 * 8
    assert made["curve"]["step"] == [3, 6]
    assert (made["config"]["width"], made["config"]["lr"]) == (8, 2e-3)
    assert made["state"] == 4 * 8  # of the layer, and three inputs of the conv
    assert 0 <= runs[0].value(made["scores"]) <= 1
    assert made["machine"]["command"].startswith("recurra train --task selective_copying:count=2 --context 8")
    again = Runner(runs, places, jobs=1, threads=1)
    assert (again.skipped, again()) == (1, {})
    assert find(runs[0], places.results) == made
    other = grid(experiment(lr=0.5), "small", seeds=1)
    assert find(other[0], places.results) is None


def test_a_run_may_begin_with_another(places):
    runs = grid(experiment({"two": {"steps": 3}}), "small", seeds=1)
    assert run_all(runs, places) == {}
    folder = folder_of(runs[0], places.out)
    assert [checkpoint.position(checkpoint.last(f)).step for f in (folder / "before", folder)] == [3, 6]
    assert find(runs[0], places.results)["config"]["init"] == "before"


def test_translations_are_counted_and_shown(places, tmp_path):
    pytest.importorskip("sacrebleu")
    lines = [f"{a} {b}" for a in range(10) for b in range(10)]
    (tmp_path / "lines.tsv").write_text("\n".join(f"{line}\t{line[::-1]}" for line in lines))
    words = {"task": "translation", "source": "lines.tsv", "vocabulary": "byte", "context": 128}
    runs = grid(replace(experiment(**words), measure="bleu@test"), "small", seeds=1)
    assert run_all(runs, places._replace(data=tmp_path)) == {}
    made = find(runs[0], places.results)
    assert made["tokens"] == 6 * 2 * 4  # three characters and the end
    assert made["samples"]["source"] == ["0 1"]
    assert len(made["samples"]["written"]) == 1
    assert made["signatures"]["bleu"].startswith("nrefs:1|case:mixed|eff:no|tok:13a|")
    assert (
        command({"source": "a/b.tsv", "tied": True, "cross": False})
        == "recurra train b.tsv --tied --no-cross"
    )
    assert runs[0].value(made["scores"]) == made["scores"]["bleu@test"]


def test_a_run_that_fails_is_told(places):
    runs = grid(experiment(lr=1e30), "small", seeds=1)
    failed = run_all(runs, places)
    assert list(failed) == runs
    assert "RuntimeError: the gradient of step" in failed[runs[0]]


def end(process):
    process.kill()
    process.communicate()


def start(run, places):
    """A runner whose one process has begun to train."""
    work = Runner([run], places, jobs=1, threads=1)
    work._start(run)
    wait(work.busy[run], folder_of(run, places.out), 1)
    return work


def wait(process, folder, steps):
    """Until so many steps are saved."""
    while checkpoint.last(folder) is None or checkpoint.position(checkpoint.last(folder)).step < steps:
        assert process.poll() is None, (folder / "log.txt").read_text()
        time.sleep(0.05)


def test_killed_it_goes_on_and_nobody_else_trains_there(places):
    run = grid(experiment(steps=100_000, every=10), "small", seeds=1)[0]
    folder = folder_of(run, places.out)
    first = start(run, places)
    assert run_all([run], places)[run] == f"another process is at {folder}"
    end(first.busy[run])
    done = checkpoint.position(checkpoint.last(folder)).step
    second = start(run, places)
    assert 0 < second.before[run] < 1
    wait(second.busy[run], folder, done + 30)
    second.busy[run].stdin.close()
    assert second.busy[run].wait(timeout=20) == 1
    steps = [int(row["step"]) for row in rows(folder / "metrics.csv")]
    assert steps == list(range(1, len(steps) + 1))


def test_data_that_is_not_there_is_named(places):
    runs = grid(experiment(task="text", source="text/none.txt"), "small", seeds=1)
    with pytest.raises(FileNotFoundError, match=r"tiny reads text/none.txt: name its folder by --data"):
        Runner(runs, places, jobs=1, threads=1)
