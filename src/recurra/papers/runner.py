"""Runs of a grid, some side by side, each in a process of its own; what is finished is not run again."""

import json
import subprocess
import sys
import time
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from recurra.papers import work
from recurra.papers.experiment import Run
from recurra.papers.results import find, path_of
from recurra.train.progress import Line, clock

__all__ = ["Places", "Runner", "folder_of"]

PATIENCE, TAIL = 0.5, 2048


class Places(NamedTuple):
    """Folders: of the runs, of their results, of the data that some of them read."""

    out: Path
    results: Path
    data: Path | None


def folder_of(run: Run, out: Path) -> Path:
    """Where a run keeps its checkpoints."""
    return out / run.experiment.name / run.scale / run.name


def options_of(run: Run, data: Path | None) -> dict[str, Any]:
    """Its options, with the whole path of its text. Raises FileNotFoundError where that is not there."""
    source = run.options.get("source")
    if source is None:
        return run.options
    if data is None or not (data / source).exists():
        raise FileNotFoundError(
            f"{run.experiment.name} reads {source}: name its folder by --data or RECURRA_DATA"
        )
    return {**run.options, "source": str((data / source).resolve())}


class Runner:
    """Works through runs, `jobs` of them at a time; calling it gives the runs that failed, and why."""

    def __init__(self, runs: Sequence[Run], places: Places, jobs: int, threads: int) -> None:
        self.places, self.jobs, self.threads = places, jobs, threads
        self.waiting = deque(run for run in runs if find(run, places.results) is None)
        self.plans = {run: options_of(run, places.data) for run in self.waiting}
        self.skipped, self.total = len(runs) - len(self.waiting), len(runs)
        self.busy: dict[Run, subprocess.Popen[bytes]] = {}
        self.failed: dict[Run, str] = {}
        # Shares of runs that were done before, and expected minutes of what was done since.
        self.before = {run: self._share(run) for run in self.waiting}
        self.began, self.made = time.monotonic(), 0.0

    def __call__(self) -> dict[Run, str]:
        """Run all of them."""
        line = Line()
        try:
            while self.waiting or self.busy:
                while self.waiting and len(self.busy) < self.jobs:
                    self._start(self.waiting.popleft())
                time.sleep(PATIENCE)
                for run in [run for run, process in self.busy.items() if process.poll() is not None]:
                    line.keep(self._end(run))
                line.show(self._told())
        finally:
            for process in self.busy.values():
                process.kill()
                process.communicate()
        return self.failed

    def _start(self, run: Run) -> None:
        folder = folder_of(run, self.places.out)
        folder.mkdir(parents=True, exist_ok=True)
        about = {"experiment": run.experiment.name, "scale": run.scale, "row": run.row, "column": run.column}
        plan = {
            "options": self.plans[run],
            "before": run.before,
            "studies": run.experiment.studies,
            "about": {**about, "seed": run.seed},
            "folder": str(folder),
            "result": str(path_of(run, self.places.results)),
            "threads": self.threads,
        }
        with (folder / "log.txt").open("ab") as log:
            words = [sys.executable, "-m", work.__name__, json.dumps(plan)]
            self.busy[run] = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=log, stderr=log)

    def _end(self, run: Run) -> str:
        """What became of a run whose process has ended."""
        process = self.busy.pop(run)
        process.communicate()
        found = None if process.returncode else find(run, self.places.results)
        self.made += (1 - self.before[run]) * run.minutes
        if found is None:
            folder = folder_of(run, self.places.out)
            busy = process.returncode == work.BUSY
            self.failed[run] = f"another process is at {folder}" if busy else _last_line(folder / "log.txt")
            return f"{_name(run)}: failed: {self.failed[run]}"
        return (
            f"{_name(run)}: {run.value(found['scores']):.4g} {run.experiment.unit}, {clock(found['seconds'])}"
        )

    def _told(self) -> str:
        ended = self.total - len(self.waiting) - len(self.busy)
        now = "; ".join(f"{_name(run)} {100 * self._share(run):.0f} %" for run in self.busy)
        return f"{ended}/{self.total} runs, {clock(self._left())} left  {now}"

    def _left(self) -> float:
        """Seconds: what is still expected, at the speed so far."""
        shares = {run: self._share(run) for run in self.busy}
        made = self.made + sum((share - self.before[run]) * run.minutes for run, share in shares.items())
        left = sum((1 - self.before[run]) * run.minutes for run in self.waiting)
        left += sum((1 - share) * run.minutes for run, share in shares.items())
        return left * ((time.monotonic() - self.began) / made if made > 1 else 60.0)

    def _share(self, run: Run) -> float:
        """Of its steps, those that are done."""
        step = _last_step(folder_of(run, self.places.out) / work.METRICS)
        return min(step / (run.config.last or 1), 1.0)


def _name(run: Run) -> str:
    return f"{run.experiment.name}: {run.row}, {run.column}, seed {run.seed}"


def _last_step(metrics: Path) -> int:
    """Of a file of metrics, of which only the end is read."""
    with suppress(OSError, ValueError, IndexError), metrics.open("rb") as f:
        f.seek(max(metrics.stat().st_size - TAIL, 0))
        return int(f.read().split(b"\n")[-2].split(b",")[0])
    return 0


def _last_line(path: Path) -> str:
    lines = path.read_text(encoding="utf-8", errors="replace").strip().splitlines()
    return lines[-1] if lines else "it said nothing"
