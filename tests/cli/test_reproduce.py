"""`recurra reproduce` as a person types it."""

import pytest

from recurra.cli import reproduce
from recurra.papers.experiment import SCALES, Experiment, Scale
from recurra.papers.table import EXPERIMENTS

TINY = {
    "task": "parity",
    "depth": 1,
    "context": 4,
    "batch": 2,
    "steps": 2,
    "every": 1,
    "windows": 2,
    "device": "cpu",
}


@pytest.fixture(autouse=True)
def _tiny(monkeypatch):
    made = Experiment(
        name="tiny",
        title="A tiny grid",
        paper="none",
        rows={"minGRU": {"model": "mingru", "width": 8}, "GRU": {"model": "gru", "width": 8}},
        columns={"parity": {}},
        scales={
            scale: Scale(TINY, 2, {"minGRU": 1.0, "GRU": 2.0}, {"GRU": {"steps": 3, "tied": False}})
            for scale in SCALES
        },
        measure="accuracy@20",
    )
    monkeypatch.setattr(reproduce, "EXPERIMENTS", {"tiny": made})
    monkeypatch.setattr(reproduce, "GROUPS", {"all": (made,)})


@pytest.mark.parametrize("verb", ["list", "show", "run", "report"])
def test_help(command, verb):
    code, out, err = command("reproduce", verb, "--help")
    assert code == 0
    assert out.startswith(f"Usage: recurra reproduce {verb}")
    assert not err


def test_run_list_show_and_report(command, tmp_path, monkeypatch):
    pytest.importorskip("matplotlib")
    monkeypatch.chdir(tmp_path)
    code, out, err = command("reproduce", "run", "tiny", "--models", "minGRU", "--seeds", "1", "--jobs", "1")
    assert code == 0, err
    assert "1 runs, 0 of them done before" in out
    assert (
        "1 runs, 1 of them done before"
        in command("reproduce", "run", "tiny", "--models", "minGRU", "--seeds", "1")[1]
    )
    ledger = command("reproduce", "list")[1]
    assert "| tiny       | A tiny grid | 4    | 1    | 6 " in ledger
    assert "all: tiny" in ledger
    shown = command("reproduce", "show", "tiny")[1]
    assert "--task parity" in shown
    assert "GRU: --steps 3 --no-tied" in shown
    assert command("reproduce", "show", "all")[1] == shown
    words = ("all", "tiny", "--models", "minGRU", "--seeds", "1")
    assert "1 runs, 1 of them done before" in command("reproduce", "run", *words)[1]
    code, out, err = command("reproduce", "report")
    assert code == 0, err
    assert "runnable, not run" in (tmp_path / out.splitlines()[0]).read_text()


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["show", "none"], "NAME must be one of tiny, all"),
        (["run", "none"], "NAME must be one of tiny, all"),
        (["run", "tiny", "--scale", "huge"], "--scale is one of small, full"),
        (["run", "tiny", "--models", "S6"], "got 'S6'"),
        (["run", "tiny", "--jobs", "0"], "--jobs"),
    ],
)
def test_wrong_use_is_one_line_and_code_2(command, words, named):
    code, _, err = command("reproduce", *words)
    assert code == 2
    assert named in err
    assert err.count("\n") == 1


def test_the_table_is_there():
    assert {"copying", "shakespeare", "formal", "mqar", "listops", "scaling"} <= EXPERIMENTS.keys()
