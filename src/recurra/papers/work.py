"""One run in a process of its own: it trains, is judged, and leaves its result.

It ends with the process that started it, whose end it sees on its stdin.
"""

import json
import os
import shlex
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from recurra.bench.report import record
from recurra.models import SequenceToSequence, load
from recurra.papers.results import Result, write
from recurra.papers.studies import STUDIES
from recurra.tasks.quality import measured
from recurra.tasks.table import Task
from recurra.tasks.translation import Translation
from recurra.train import checkpoint
from recurra.train.config import TrainConfig
from recurra.train.loop import launch
from recurra.train.metrics import rows
from recurra.train.run import prepare, train

__all__ = ["command", "result", "typed", "work"]

METRICS = "metrics.csv"
# Folder of the run that another begins with, in that one's.
BEFORE = "before"
# The exit code of a run that another process is at.
BUSY = 3


def work(plan: Result) -> Result:
    """Train to the end, from where the folder is, judge the best checkpoint, and study it."""
    options, threads, folder = plan["options"], plan["threads"], Path(plan["folder"])
    torch.set_num_threads(threads)
    before = None if plan["before"] is None else {**options, **plan["before"]}
    run = prepare({**options, **_first(before, folder / BEFORE)}, folder)
    fabric = launch(run.config)
    _, data = train(run, fabric)
    model = load(checkpoint.best(folder)).to(fabric.device)
    made = result(run.config, data, model, folder)
    for name in plan["studies"]:
        scores, tables = STUDIES[name](model, data, run.config)
        made["scores"] |= {key: round(value, 6) for key, value in scores.items()}
        made["tables"] = {**made.get("tables", {}), **tables}
    return {**plan["about"], **made, "machine": machine(options, before, threads)}


def _first(options: dict[str, Any] | None, folder: Path) -> dict[str, Any]:
    """Train the run that another begins with, or find it done; what that other one is told of it."""
    if options is None:
        return {}
    run = prepare(options, folder)
    train(run, launch(run.config))
    return {"init": str(folder)}


def result(config: TrainConfig, data: Task, model: Any, folder: Path) -> Result:
    """What the run is worth and what it took; tokens are counted as the task counts its context, of
    translations those that are written."""
    end = checkpoint.position(checkpoint.last(folder) or folder)
    each = config.batch * config.accumulate * _steps(config, data)
    return {
        "scores": {name: round(value, 6) for name, value in data.scores(model, config.context).items()},
        "config": {**asdict(config), **_names(config)},
        "best": {"step": end.best_step, data.metric: end.best_score},
        "steps": end.step,
        "tokens": round(end.step * each),
        "seconds": round(end.seconds, 1),
        "parameters": sum(p.numel() for p in model.parameters()),
        "state": _state(model, data, config.context),
        **_samples(data, model),
        "curve": _curve(rows(folder / METRICS), f"valid_{data.metric}", each),
    }


def _names(config: TrainConfig) -> dict[str, str | None]:
    """Of files and folders the names alone."""
    given = {"source": config.source, "init": config.init}
    return {name: path and Path(path).name for name, path in given.items()}


def machine(options: dict[str, Any], before: dict[str, Any] | None, threads: int) -> dict[str, Any]:
    """Where it was made, and the command that makes the same run alone."""
    words = command(options)
    if before:
        words = f"{command(before)} --out {BEFORE} && {words} --init {BEFORE}"
    return {**record(threads), "command": words}


def command(options: dict[str, Any]) -> str:
    """`recurra train` with these options; of a file of data its name alone."""
    words = ["recurra", "train"]
    for name, value in options.items():
        if name == "source":
            words.insert(2, Path(value).name)
        elif isinstance(value, bool) or getattr(TrainConfig, name, None) != value:
            words += typed(name, value)
    return shlex.join(words)


def typed(name: str, value: Any) -> list[str]:
    """An option as `recurra train` takes it."""
    if isinstance(value, bool):
        return [f"--{name}" if value else f"--no-{name}"]
    return [str(value)] if name == "source" else [f"--{name}", str(value)]


def _steps(config: TrainConfig, data: Task) -> float:
    """Of a sequence; of sentences, which are of all lengths, the mean, their ends with them."""
    if isinstance(data, Translation):
        return sum(len(target) + 1 for _, target in data.train) / len(data.train)
    return config.context


def _samples(data: Task, model: Any) -> dict[str, Any]:
    """Some translations, that a person can judge, and the signatures of what they are judged by."""
    if not isinstance(data, Translation):
        return {}
    pairs, written = data.samples(model)
    texts = {"source": pairs.sources, "reference": pairs.targets, "written": written}
    signatures = {name: said for name, (_, said) in measured(written, pairs.targets).items()}
    return {"samples": texts, "signatures": signatures}


@torch.no_grad()
def _state(model: Any, data: Task, context: int) -> int:
    """Numbers that the model remembers of a sequence of `context` steps, a decoder of such a source."""
    steps = torch.zeros(1, context, data.channels) if data.channels else torch.zeros(1, context).long()
    steps = steps.to(next(model.parameters()).device)
    if isinstance(model, SequenceToSequence):
        return _numbers(model.step(steps[:, 0], model.encode(steps, steps.new_tensor([context])))[1])
    return _numbers(model(steps)[1])


def _numbers(state: Any) -> int:
    return state.numel() if isinstance(state, torch.Tensor) else sum(map(_numbers, state))


def _curve(metrics: list[dict[str, str]], score: str, each: float) -> dict[str, list[float]]:
    """Held-out scores while it trained, and what had been spent by then."""
    kept = [row for row in metrics if row[score]]
    return {
        "step": [int(row["step"]) for row in kept],
        "tokens": [round(int(row["step"]) * each) for row in kept],
        "seconds": [round(float(row["seconds"]), 1) for row in kept],
        "score": [round(float(row[score]), 5) for row in kept],
    }


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Exits with BUSY where another process has the folder; its end, however it comes, sets it free."""
    with (folder / "lock").open("w") as lock:
        if sys.platform != "win32":
            import fcntl  # noqa: PLC0415 - which Windows does not have

            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                sys.exit(BUSY)
        yield


def _end_with_parent() -> None:
    os.read(0, 1)  # which returns when the other end is closed; sys.stdin would hold a lock at our own end
    os._exit(1)


def _main(words: list[str]) -> None:
    threading.Thread(target=_end_with_parent, daemon=True).start()
    plan = json.loads(words[0])
    with _alone(Path(plan["folder"])):
        write(Path(plan["result"]), work(plan))


if __name__ == "__main__":
    _main(sys.argv[1:])
