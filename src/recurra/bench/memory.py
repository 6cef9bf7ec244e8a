"""Memory of this process, and what a run adds to it at its peak, measured in a fresh process.

The peak of the resident set during the run, less the resident set just before it, when libraries,
layer, input and output gradient are already there. A tiny pass comes first, so that code pages and
work buffers which every process needs once are not counted.
"""

import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from recurra.bench.contenders import begin, draw_input

STATUS, CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")
MACHINE = Path("/proc/meminfo")


def _status(field: str, source: Path = STATUS) -> int:
    """A memory field of this process in KiB. The peak is that of this program alone: getrusage's maximum
    would still hold the parent's size from before the program was started."""
    line = next(line for line in source.read_text().splitlines() if line.startswith(field + ":"))
    return int(line.split()[1])


def available() -> float | None:
    """MiB that this machine can still give; None where the system does not tell (not Linux)."""
    return _status("MemAvailable", MACHINE) / 1024 if MACHINE.exists() else None


def resident() -> float | None:
    """MiB that this process holds; None where the system does not tell (not Linux)."""
    return _status("VmRSS") / 1024 if STATUS.exists() else None


def risen(run: Callable[[], object]) -> float:
    """MiB that a run takes at its peak in this process."""
    CLEAR.write_text("5")  # the peak starts again from the present size
    before = _status("VmRSS")
    run()
    return max(_status("VmHWM") - before, 0) / 1024


def told(module: str, words: Sequence[object], what: str) -> str:
    """What a module prints, run by itself in a fresh process. Raises RuntimeError with its last words."""
    command = [sys.executable, "-m", module, *map(str, words)]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    if done.returncode:
        reason = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
        raise RuntimeError(f"measuring {what} failed: {reason[-1]}")
    return done.stdout


def fresh(module: str, words: Sequence[object], what: str) -> float | None:
    """The MiB that a module prints, run by itself; None where the system does not tell (not Linux)."""
    return float(told(module, words, f"the memory of {what}")) if CLEAR.exists() else None


def peak_here(name: str, shape: tuple[int, int, int]) -> float:
    """MiB that one forward and backward pass takes in this process."""
    begin(name, draw_input((1, 2, shape[2])))()
    return risen(begin(name, draw_input(shape)))


def peak(name: str, shape: tuple[int, int, int], threads: int) -> float | None:
    """MiB that one forward and backward pass takes in a fresh process."""
    return fresh(__name__, [name, *shape, threads], f"{name} at {shape}")


if __name__ == "__main__":
    batch, time, width, count = map(int, sys.argv[2:])
    torch.set_num_threads(count)
    print(peak_here(sys.argv[1], (batch, time, width)))
