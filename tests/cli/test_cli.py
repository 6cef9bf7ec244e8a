"""The command line: every verb's help, exit codes, and one line a fault."""

import sys

import pytest

from recurra.cli import app

BENCHES = (
    *("layers", "train", "generate", "step", "swap"),
    *("figure", "roofline", "position", "report"),
)
VERBS = [[], ["config"], ["demo"], ["export-transformers"], ["bench"], *(["bench", name] for name in BENCHES)]


@pytest.mark.parametrize("verb", VERBS, ids=" ".join)
def test_help(command, verb):
    code, out, err = command(*verb, "--help")
    assert code == 0
    assert out.startswith(" ".join(["Usage: recurra", *verb]))
    assert not err


def test_config_prints_what_is_in_use(command):
    code, out, _ = command("config")
    assert code == 0
    assert "torch" in out
    assert "kernels" in out


@pytest.mark.parametrize(
    ("words", "named"),
    [
        ([], "command"),
        (["nonsense"], "nonsense"),
        (["bench", "layers", "--shape", "1,2"], "B,T,D"),
        (["bench", "layers", "--shape", "1,2,x"], "B,T,D"),
        (["bench", "layers", "--shape", "0,2,3"], "below 1"),
        (["bench", "layers", "--shape", "1,2,3", "--long"], "--long"),
        (["bench", "layers", "--repeats", "0"], "--repeats"),
        (["bench", "layers", "--nonsense"], "--nonsense"),
        (["bench", "swap", "--tasks", "adding,subtracting"], "subtracting"),
        (["bench", "train", "--model", "mingru,nonsense"], "nonsense"),
        (["bench", "generate", "--last", "0"], "--last"),
        (["bench", "figure", "--dtype", "fp32,fp8"], "fp8"),
        (["bench", "position", "--model", "nonsense"], "nonsense"),
        (["bench", "models", "--longest", "255"], "--longest"),
        (["bench", "figure", "--longest", "31"], "--longest"),
        (["steer", "run", "pairs.json", "--template", "Q:"], "--template"),
        (["demo", "--minutes", "0"], "--minutes"),
        (["bench", "swap", "--seeds", "many"], "--seeds"),
    ],
)
def test_wrong_use_is_one_line_and_code_2(command, words, named):
    code, _, err = command(*words)
    assert code == 2
    assert err.startswith("recurra: ")
    assert named in err
    assert err.count("\n") == 1


def test_wrong_use_names_the_help_of_its_verb(command):
    assert command("bench", "layers", "--nonsense")[2].endswith("(see recurra bench layers --help)\n")
    assert command("nonsense")[2].endswith("(see recurra --help)\n")


def test_failure_is_one_line_and_code_1(command, tmp_path):
    (tmp_path / "swap.csv").write_text("another,file\n1,2\n")
    code, _, err = command("bench", "swap", "--tasks", "adding", "--out", str(tmp_path))
    assert code == 1
    assert err.startswith("recurra: ")
    assert "swap.csv" in err
    assert err.count("\n") == 1


def test_a_bug_keeps_its_traceback(command, monkeypatch):
    def broken():
        raise AssertionError("a bug")

    monkeypatch.setattr(app, "show_config", broken)
    with pytest.raises(AssertionError, match="a bug"):
        command("config")


def test_without_typer_the_extra_is_named(command, monkeypatch):
    monkeypatch.setitem(sys.modules, "typer", None)
    monkeypatch.delitem(sys.modules, "recurra.cli.app")
    monkeypatch.delitem(sys.modules, "recurra.cli.bench")
    code, _, _ = command("config")
    assert code == 'recurra: the command line needs typer: pip install "recurra[cli]"'
