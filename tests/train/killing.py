"""Trains in child processes that it kills: killing.py FOLDER KILLS STEPS. Prints how often it had to.

A program of its own, so that what it forks has never had a thread.
"""

import json
import os
import random
import signal
import sys
import time
from pathlib import Path

import lightning_fabric  # noqa: F401 - so that a child starts at once
import torch

from recurra.cli.train import train
from recurra.train.metrics import rows

folder, kills, steps = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
torch.set_num_threads(1)
draw = random.Random(0)
(folder / "text").write_text("".join(f"line {i} of {i * i}\n" for i in range(999)), encoding="utf-8")
shape = {"width": 8, "depth": 1, "context": 8, "batch": 2, "carry": True, "dropout": 0.1, "device": "cpu"}
shape["average"] = 3
options = {"source": str(folder / "text"), "steps": steps, "every": 10, "windows": 2, **shape}


def child(out: Path) -> int:
    """Start or resume a run."""
    pid = os.fork()
    if pid:
        return pid
    try:
        train(options, out, "auto")
    except BaseException as e:
        sys.stderr.write(f"{type(e).__name__}: {e}")
        os._exit(1)
    os._exit(0)


def ended(pid: int) -> None:
    status = os.waitpid(pid, 0)[1]
    if status:
        sys.exit(f"a run ended with status {status}")


ended(child(folder / "unbroken"))
done = 0
for kill in range(kills):
    pid = child(folder / "killed")
    goal = kill * steps // (kills + 1)
    while len(rows(folder / "killed" / "metrics.csv")) < goal and not os.waitpid(pid, os.WNOHANG)[0]:
        time.sleep(0.005)
    time.sleep(draw.uniform(0, 0.1))
    os.kill(pid, signal.SIGKILL)
    done += os.waitpid(pid, 0)[1] == signal.SIGKILL
ended(child(folder / "killed"))
sys.stdout.write(json.dumps({"kills": done}))
