"""Two processes are one with twice the batch."""

import os
import subprocess
import sys

import pytest

from recurra.train.metrics import rows

SMALL = ["--width", "8", "--depth", "1", "--context", "8", "--steps", "4", "--every", "2", "--device", "cpu"]


@pytest.mark.slow
@pytest.mark.parametrize("carry", ["--carry", "--no-carry"])
def test_two_processes(tmp_path, carry):
    (tmp_path / "text").write_text("".join(f"line {i} of {i * i}\n" for i in range(99)))
    script = tmp_path / "program.py"
    script.write_text("from recurra.cli import main\nmain()\n")

    def losses(name, *words):
        command = [sys.executable, script, "train", tmp_path / "text", *SMALL, carry, *words]
        done = subprocess.run(
            [*map(str, command), "--out", str(tmp_path / name)],
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
        assert not done.returncode, done.stderr
        return [float(row["loss"]) for row in rows(tmp_path / name / "metrics.csv")]

    one = losses("one", "--batch", "4")
    assert losses("two", "--batch", "2", "--devices", "2") == pytest.approx(one, rel=1e-4)
    whole = losses("two", "--resume", "auto", "--steps", "6")
    assert len(whole) == 6
