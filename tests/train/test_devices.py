"""Two processes are one with twice the batch."""

import os
import subprocess
import sys

import pytest

from recurra.models import SequenceModel
from recurra.train import checkpoint
from recurra.train.metrics import rows

SMALL = ["--width", "8", "--depth", "1", "--context", "8", "--steps", "4", "--every", "2", "--device", "cpu"]


# Ends without a word, as if it were killed, after the step that STOP names.
PROGRAM = """
import os
from recurra.cli import main
from recurra.train.report import Report

add = Report.add

def told(self, row, left):
    add(self, row, left)
    if str(row["step"]) == os.environ.get("STOP"):
        os._exit(9)

Report.add = told
main()
"""


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
@pytest.mark.parametrize("how", [["--carry"], ["--no-carry", "--accumulate", "2"]], ids=" ".join)
def test_two_processes(tmp_path, how, strategy):
    (tmp_path / "text").write_text("".join(f"line {i} of {i * i}\n" for i in range(99)))
    (tmp_path / "program.py").write_text(PROGRAM)

    def losses(name, *words, stop=""):
        words = ["train", tmp_path / "text", *SMALL, *how, *words, "--out", tmp_path / name]
        done = subprocess.run(
            [sys.executable, tmp_path / "program.py", *map(str, words)],
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
            env={**os.environ, "OMP_NUM_THREADS": "1", "STOP": stop},
        )
        assert done.returncode == (9 if stop else 0), done.stderr
        return [float(row["loss"]) for row in rows(tmp_path / name / "metrics.csv")]

    two = ["--batch", "2", "--devices", "2", "--strategy", strategy]
    unbroken = losses("two", *two)
    assert unbroken == pytest.approx(losses("one", "--batch", "4"), rel=1e-4)
    losses("broken", *two, stop="3")
    assert losses("broken", *two, "--resume", "auto") == unbroken
    assert SequenceModel.from_pretrained(checkpoint.best(tmp_path / "broken")).vocabulary.size == 256
