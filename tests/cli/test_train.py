"""Train, generate, eval, info and models as a person types them; a fault is one line and harms nothing."""

import io
import json
import os
import resource
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from recurra.cli import main
from recurra.models import SequenceModel
from recurra.tasks.table import TASKS
from recurra.train import checkpoint

SMALL = ["--width", "8", "--depth", "1", "--context", "8", "--batch", "2", "--steps", "4", "--every", "2"]


@pytest.fixture(scope="session")
def trained(tmp_path_factory):
    """A run, not to be written to."""
    folder = tmp_path_factory.mktemp("trained")
    (folder / "prose.txt").write_text("To be, or not to be: that is the question.\n" * 200)
    words = ["train", folder / "prose.txt", *SMALL, "--device", "cpu", "--out", folder / "run"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["recurra", *map(str, words)])
        with pytest.raises(SystemExit) as stopped:
            main()
    assert stopped.value.code == 0
    return folder


@pytest.fixture
def run(trained, tmp_path):
    """A copy of it."""
    return Path(shutil.copytree(trained / "run", tmp_path / "run"))


@pytest.mark.parametrize("verb", ["train", "generate", "predict", "eval", "info", "models", "tasks"])
def test_help(command, verb):
    code, out, err = command(verb, "--help")
    assert code == 0
    assert out.startswith(f"Usage: recurra {verb}")
    assert not err


def test_a_run_leaves_its_options(trained):
    text = (trained / "run" / "config.yaml").read_text()
    for line in ("width: 8", "steps: 4", f"source: {trained / 'prose.txt'}"):
        assert line in text.splitlines()


def test_options_from_a_file_and_from_words(command, trained, tmp_path):
    (tmp_path / "options.yaml").write_text("width: 8\nsteps: 2\ndepth: 1\ncontext: 8\nbatch: 2\n")
    out = tmp_path / "run"
    words = ["--config", tmp_path / "options.yaml", "--steps", "3", "--carry", "--out", out]
    code, printed, _ = command("train", trained / "prose.txt", *words)
    assert code == 0
    assert "3 steps" in printed
    options = checkpoint.options(checkpoint.last(out))
    assert (options.width, options.steps, options.carry) == (8, 3, True)


def test_options_of_the_block(command, tmp_path):
    """Those not given are the block's own, not another's."""
    (tmp_path / "text").write_text("some text\n" * 20)
    words = [*SMALL, "--model", "mamba", "--options", "state=3,norm=layer", "--conv", "2", "--steps", "1"]
    code, _, err = command("train", tmp_path / "text", *words, "--out", tmp_path / "run")
    assert code == 0, err
    config = SequenceModel.from_pretrained(checkpoint.best(tmp_path / "run")).blocks[0].config
    assert (config.state, config.norm, config.conv, config.expansion) == (3, "layer", 2, 2.0)


def test_a_pattern(command, tmp_path):
    (tmp_path / "text").write_text("some text\n" * 20)
    words = [*SMALL, "--model", "xlstm", "--pattern", "2:1", "--depth", "3", "--steps", "1"]
    code, _, err = command("train", tmp_path / "text", *words, "--out", tmp_path / "run")
    assert code == 0, err
    assert "pattern: '2:1'" in (tmp_path / "run" / "config.yaml").read_text()
    assert "model       2 mlstm, slstm, width 8, depth 3" in command("info", tmp_path / "run")[1]
    code, _, err = command("train", "--resume", "auto", "--pattern", "1:2", "--out", tmp_path / "run")
    assert (code, "pattern is 2:1" in err) == (2, True)


def test_resume_goes_on(command, run):
    code, printed, _ = command("train", "--resume", "auto", "--steps", "6", "--out", run)
    assert code == 0
    assert "6 steps" in printed
    assert checkpoint.position(checkpoint.last(run)).step == 6


def test_init_takes_weights_and_vocabulary(command, trained, tmp_path):
    (tmp_path / "more.txt").write_text("that is not the question\n" * 30)
    out = tmp_path / "run"
    words = ["--init", trained / "run", "--context", "8", "--batch", "2", "--steps", "1", "--lr", "0"]
    code, _, err = command("train", tmp_path / "more.txt", *words, "--out", out)
    assert code == 0, err
    name = "model.safetensors"
    assert (checkpoint.last(out) / name).read_bytes() == (
        checkpoint.best(trained / "run") / name
    ).read_bytes()


def test_stdin(command, tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(b"from a pipe\n" * 30)))
    code, _, err = command("train", "-", *SMALL, "--vocabulary", "char", "--out", tmp_path / "run")
    assert code == 0, err
    assert "stdin" in command("info", tmp_path / "run")[1]


def test_generate_streams_and_tells_its_speed(command, trained):
    words = ["generate", trained / "run", "--prompt", "To be", "--tokens", "20", "--seed", "1"]
    code, out, err = command(*words)
    assert code == 0
    assert out.startswith("To be")
    assert err.startswith("20 tokens")
    assert "tokens/s" in err
    assert command(*words)[1] == out


def test_state_goes_on_where_it_was(command, trained, tmp_path):
    greedy = ["--temperature", "0", "--tokens"]
    state = tmp_path / "state.safetensors"
    whole = command("generate", trained / "run", "--prompt", "To be", *greedy, "12")[1]
    code, first, err = command(
        "generate", trained / "run", "--prompt", "To b", *greedy, "0", "--state-out", state
    )
    assert code == 0, err
    assert first == "To b\n"
    rest = command("generate", trained / "run", "--prompt", "e", *greedy, "12", "--state-in", state)[1]
    assert "To b" + rest == whole


def test_eval_prints_both_losses(command, trained):
    code, out, _ = command("eval", trained / "run", trained / "prose.txt")
    assert code == 0
    assert out.count("bits/byte") == 2
    assert "fresh windows of 8" in out
    assert "state carried" in out
    code, _, err = command("eval", trained / "run", trained / "prose.txt", trained / "prose.txt")
    assert (code, err.count("\n")) == (1, 1)
    assert "TARGET is for tasks with pairs" in err


def test_weights_in_fewer_bytes(command, trained):
    for weights in ("bf16", "int8"):
        code, out, err = command("eval", trained / "run", trained / "prose.txt", "--weights", weights)
        assert code == 0, err
        assert f"weights in {weights}\n" in out
        code, out, err = command("generate", trained / "run", "--tokens", "5", "--weights", weights)
        assert code == 0, err
        assert err.startswith("5 tokens")
    code, _, err = command("generate", trained / "run", "--weights", "int4")
    assert code == 1
    assert "weights must be one of fp32, bf16, int8, got 'int4'" in err


def test_samples(command, run):
    code, out, _ = command("eval", run, "--samples")
    assert code == 0
    sheet = (run / "samples.md").read_text()
    assert str(run / "samples.md") in out
    assert "| written |" in sheet
    assert "To be" in sheet


def test_info(command, trained):
    code, out, _ = command("info", trained / "run")
    assert code == 0
    for words in ("mingru", "width 8", "parameters", "bits/byte", "prose.txt"):
        assert words in out


def test_another_task_has_the_same_verbs(command, tmp_path):
    """Selective copying from its first step to its answers; the run knows its task."""
    run = tmp_path / "run"
    task = "selective_copying:count=8"
    words = ["--task", task, *SMALL, "--context", "20", "--windows", "4", "--device", "cpu"]
    code, out, err = command("train", *words, "--out", run)
    assert code == 0, err
    assert "accuracy held out" in out
    assert checkpoint.options(checkpoint.last(run)).task == task
    code, _, err = command("train", "--resume", "auto", "--steps", "6", "--out", run)
    assert code == 0, err
    assert (run / "metrics.csv").read_text().splitlines()[0].endswith("seconds,valid_accuracy")
    assert (run / "loss.png").stat().st_size
    code, out, err = command("eval", run)
    assert code == 0, err
    assert "length      20  accuracy 0." in out
    assert "(8,192 answers)" in out
    out = command("eval", run, "--context", "30", "--context", "24")[1]
    assert "length      30  accuracy" in out
    assert "length      24  accuracy" in out
    code, out, err = command("info", run)
    assert code == 0, err
    for words in ("selective_copying", "16 tokens", "accuracy", "steps       6,"):
        assert words in out
    for words, named in (
        (["generate", run], "not trained to write text"),
        (["eval", run, __file__], "draws its own sequences"),
        (["eval", run, "--samples"], "its task is selective_copying"),
        (["train", "--resume", "auto", "--task", "text", "--out", run], "task is selective_copying"),
        (["train", "--init", run, "--task", "text", "--out", tmp_path / "b"], "task is selective_copying"),
    ):
        code, _, err = command(*words)
        assert code in {1, 2}
        assert named in err
        assert err.count("\n") == 1


def test_models(command):
    code, out, _ = command("models", "--width", "8", "--depth", "1")
    assert code == 0
    for name in ("mingru", "minlstm", "2410.01201", "--pattern 7:1"):
        assert name in out


def test_a_task_with_pairs(command, tmp_path):
    """An encoder of another kind; what goes on from a text has no use for it."""
    run, words = tmp_path / "run", [*SMALL, "--context", "6", "--windows", "4", "--device", "cpu"]
    sides = ["--encoder", "transformer", "--model", "lstm", "--tied"]
    code, _, err = command("train", "--task", "reverse:symbols=5", *sides, *words, "--out", run)
    assert code == 0, err
    code, out, err = command("eval", run, "--context", "3")
    assert code == 0, err
    assert "length       3  accuracy" in out
    assert "whole" in out
    assert "back: both runs must be of translation" in command("eval", run, "--back", run)[2]
    assert "writes no samples" in command("eval", run, "--samples")[2]
    assert command("info", run)[0] == 0
    assert "answers to a source" in command("generate", run)[2]
    assert (
        "encoder is transformer" in command("train", "--resume", "auto", "--encoder", "gru", "--out", run)[2]
    )
    _, _, err = command("train", "--task", "parity", "--encoder", "gru", *SMALL, "--out", tmp_path / "other")
    assert "encoder and cross are for tasks with pairs" in err
    _, _, err = command("train", "--task", "copy", "--encoder", "gro", *SMALL, "--out", tmp_path / "other")
    assert "blocks must be of" in err


def test_the_classic_model(command, tmp_path):
    """It is trained and evaluated as others are; of what blocks have there is no choice."""
    run, words = tmp_path / "run", [*SMALL, "--context", "6", "--windows", "4", "--device", "cpu"]
    named = ["--task", "reverse:symbols=5", "--model", "classic", "--average", "2"]
    code, _, err = command("train", *named, *words, "--precision", "bf16-mixed", "--out", run)
    assert code == 0, err
    code, out, err = command("eval", run, "--context", "3")
    assert code == 0, err
    assert "length       3  accuracy" in out
    assert "classic, width 8" in command("info", run)[1]
    other = ["--out", tmp_path / "other"]
    _, _, err = command("train", *named, *words, "--encoder", "gru", "--mlp", "2", *other)
    assert "model classic leaves no choice of encoder, mlp" in err
    assert "for tasks with pairs" in command("train", "--model", "classic", *words, *other)[2]


def test_translation_from_files_to_answers(command, tmp_path, monkeypatch):
    lines = [f"{a} {b}" for a in range(15) for b in range(15)]
    (tmp_path / "a").write_text("\n".join(lines))
    (tmp_path / "b").write_text("\n".join(line[::-1] for line in lines))
    run, words = tmp_path / "run", [*SMALL, "--tokens", "260", "--tied", "--device", "cpu"]
    files = [tmp_path / "a", tmp_path / "b"]
    code, out, err = command("train", "--task", "translation", *files, *words, "--out", run)
    assert code == 0, err
    assert "perplexity held out" in out
    assert checkpoint.options(checkpoint.last(run)).vocabulary == "bpe"
    code, out, err = command("eval", run, *files)
    assert code == 0, err
    assert "bleu" in out
    assert "225 to test on" in out
    code, out, err = command("eval", run, *files, "--back", run, "--samples")
    assert code == 0, err
    assert "round_trip" in out
    assert "reference  1 0" in (run / "samples.md").read_text()
    words = ["--beam", "1", "--weights", "bf16", "--map", tmp_path / "map.png"]
    code, out, err = command("predict", run, tmp_path / "a", *words)
    assert code == 0, err
    assert out.count("\n") == 225
    assert (tmp_path / "map.png").stat().st_size > 0
    monkeypatch.setattr(sys, "stdin", io.StringIO(""))
    assert "--map: - has no sentence" in command("predict", run, "--map", tmp_path / "none.png")[2]
    monkeypatch.setattr(sys, "stdin", io.StringIO("1 2\n\n"))
    code, out, err = command("predict", run, "--n-best", "2", "--beam", "2")
    assert code == 0, err
    assert [line.count("\t") for line in out.splitlines()] == [1, 1, 1]
    assert "--n-best must be at most --beam" in command("predict", run, "--beam", "1", "--n-best", "2")[2]
    code, _, err = command("train", tmp_path / "a", *SMALL, "--device", "cpu", "--out", tmp_path / "text")
    assert code == 0, err
    assert "both runs must be of translation" in command("eval", run, "--back", tmp_path / "text")[2]
    assert (
        "target is for tasks with pairs" in command("train", *files, *SMALL, "--out", tmp_path / "other")[2]
    )


def test_tasks(command):
    code, out, _ = command("tasks")
    assert code == 0
    assert "mqar:pairs=4,size=8192" in out
    assert [line.split()[0].split(":")[0] for line in out.splitlines()] == list(TASKS)


def test_images_are_read_and_found_again(command, tmp_path):
    pytest.importorskip("sklearn")
    run = tmp_path / "run"
    code, out, err = command("train", "--task", "images", *SMALL, "--device", "cpu", "--out", run)
    assert code == 0, err
    code, out, err = command("eval", run, "--context", "12")
    assert code == 0, err
    assert "length      12  accuracy" in out
    assert "(360 answers)" in out
    for words in ("1 real numbers a step", "scikit-learn's digits"):
        assert words in command("info", run)[1]
    code, _, err = command("train", "nowhere", "--task", "images", *SMALL, "--out", tmp_path / "other")
    assert code == 1
    assert "nowhere holds no" in err


def _wrong(tmp_path):
    (tmp_path / "empty").touch()
    (tmp_path / "one").write_bytes(b"x")
    (tmp_path / "latin").write_bytes(b"caf\xe9")
    (tmp_path / "binary").write_bytes(b"a\0b")
    (tmp_path / "blank").write_text(" \n" * 50)
    (tmp_path / "folder").mkdir()
    (tmp_path / "unknown.yaml").write_text("widht: 3\n")


@pytest.mark.parametrize(
    ("words", "code", "named"),
    [
        (["missing"], 1, "missing does not exist"),
        (["empty"], 1, "empty is empty"),
        (["one"], 1, "only 1 token"),
        (["latin"], 1, "not UTF-8"),
        (["binary"], 1, "zero byte"),
        (["blank"], 1, "white space"),
        (["folder"], 1, "no text file"),
        (["good", "--context", "4000"], 1, "--context 4000"),
        (["good", "--width", "0"], 2, "--width"),
        (["good", "--width", "many"], 2, "--width"),
        (["good", "--model", "transistor"], 2, "transistor"),
        (["good", "--model", "mingru,minlstm", "--depth", "3"], 2, "depth"),
        (["good", "--model", "xlstm", "--pattern", "7"], 2, "pattern must be one number"),
        (["good", "--model", "xlstm", "--pattern", "3:1", "--depth", "6"], 2, "depth is 6"),
        (["good", "--dropout", "1.5"], 2, "dropout"),
        (["good", "--model", "mamba", "--mlp", "2"], 2, "unknown key 'mlp'"),
        (["good", "--options", "candidate"], 2, "options must be name=value"),
        (["good", "--options", "kandidate=linear"], 2, "unknown key 'kandidate'"),
        (["good", "--options", "index=1"], 2, "index follows from where a block stands"),
        (["good", "--precision", "8"], 2, "precision"),
        (["good", "--vocabulary", "words"], 2, "vocabulary"),
        (["good", "--resume", "perhaps"], 2, "--resume"),
        (["good", "--config", "unknown.yaml"], 1, "widht"),
        (["good", "--config", "nowhere.yaml"], 1, "nowhere.yaml"),
        (["good", "--init", "folder"], 1, "no checkpoint"),
        (["good", "--out", "good/run"], 1, "good"),
        (["good", "--device", "cuda"], 1, "cuda"),
        (["good", "--nonsense"], 2, "--nonsense"),
        (["good", "--task", "juggling"], 2, "task must be one of text"),
        (["--task", "selective_copying:size=2"], 2, "no option 'size'; known are count"),
        (["good", "--task", "selective_copying"], 1, "nothing to read in good"),
        (["--task", "selective_copying"], 1, "context must be at least 16"),
        (["--task", "selective_copying", "--context", "16", "--carry"], 1, "carry"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_wrong_input_of_train_is_one_line(command, tmp_path, monkeypatch, words, code, named):
    monkeypatch.chdir(tmp_path)
    _wrong(tmp_path)
    Path("good").write_text("a good text\n" * 40)
    got, out, err = command("train", *SMALL, *words)
    assert (got, out) == (code, "")
    assert err.startswith("recurra: ")
    assert named in err
    assert err.count("\n") == 1


def test_a_run_is_not_overwritten(command, run, trained):
    before = sorted((p, p.stat().st_mtime_ns) for p in run.rglob("*"))
    code, _, err = command("train", trained / "prose.txt", *SMALL, "--out", run)
    assert code == 2
    assert "--resume auto" in err
    code, _, err = command("train", "--resume", "auto", "--width", "16", "--out", run)
    assert code == 2
    assert "width is 8" in err
    assert sorted((p, p.stat().st_mtime_ns) for p in run.rglob("*")) == before


def _flip(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def _cut(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def _drop(path):
    path.unlink()


@pytest.mark.parametrize("damage", [_flip, _cut, _drop])
@pytest.mark.parametrize(
    "name", ["model.safetensors", "config.json", "training.safetensors", "training.json", "vocabulary.json"]
)
def test_a_damaged_checkpoint_is_named(command, run, name, damage):
    damage(checkpoint.last(run) / name)
    code, _, err = command("train", "--resume", "auto", "--steps", "6", "--out", run)
    assert code in {1, 2}
    assert err.startswith("recurra: ")
    assert str(checkpoint.last(run)) in err
    assert err.count("\n") == 1


@pytest.mark.parametrize("verb", ["generate", "eval", "info"])
def test_what_is_no_run_is_named(command, tmp_path, verb):
    for folder in (tmp_path / "missing", tmp_path):
        code, _, err = command(verb, folder)
        assert code == 1
        assert str(folder) in err
        assert err.count("\n") == 1


def test_a_state_of_another_model_is_named(command, trained, tmp_path):
    (tmp_path / "text").write_text("some text\n" * 20)
    wide = [*SMALL, "--width", "16", "--out", tmp_path / "wide"]
    assert command("train", tmp_path / "text", *wide)[0] == 0
    state = tmp_path / "state.safetensors"
    assert command("generate", tmp_path / "wide", "--tokens", "1", "--state-out", state)[0] == 0
    code, _, err = command("generate", trained / "run", "--state-in", state)
    assert code == 1
    assert str(state) in err


def test_a_full_disk_harms_nothing(trained, tmp_path):
    """A file that may not grow beyond a limit stands for a disk that is full."""
    run = shutil.copytree(trained / "run", tmp_path / "run")
    before = {p.name: p.read_bytes() for p in checkpoint.last(run).iterdir()}
    script = "from recurra.cli import main; main()"
    words = ["train", "--resume", "auto", "--steps", "6", "--out", str(run)]
    limit = (checkpoint.last(run) / "training.safetensors").stat().st_size - 1
    done = subprocess.run(
        [sys.executable, "-c", script, *words],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit)),
    )
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert str(run) in done.stderr.splitlines()[-1]
    assert {p.name: p.read_bytes() for p in checkpoint.last(run).iterdir()} == before
    assert json.loads(before["training.json"])["position"]["step"] == 4
    assert not list(run.glob(".draft-*"))


def test_an_interrupted_run_says_how_to_go_on(command, trained, tmp_path, monkeypatch):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("recurra.train.loop._Loop.advance", interrupted)
    code, _, err = command("train", trained / "prose.txt", *SMALL, "--out", tmp_path / "run")
    assert code == 130
    assert "--resume auto" in err
