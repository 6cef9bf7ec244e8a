"""The training loop over Lightning Fabric, which brings devices, precision and strategies."""

import logging
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import nn

from recurra.extras import need
from recurra.tasks.table import Task, name_of
from recurra.train import checkpoint, shards
from recurra.train.average import Average
from recurra.train.checkpoint import Position
from recurra.train.config import TrainConfig
from recurra.train.optimizer import rate
from recurra.train.report import Report
from recurra.train.step import Stepper

__all__ = ["fit", "launch"]

SAVE_SECONDS = 10.0


def launch(config: TrainConfig) -> Any:
    """Fabric on the devices of the options; starts one process a device where they are several.

    Raises RuntimeError where the machine does not have them.
    """
    logging.getLogger("lightning_fabric").setLevel(logging.WARNING)
    several = shards.strategy(config.devices) if config.strategy == "fsdp" else "ddp"
    strategy = several if config.devices > 1 else "auto"
    wrong = need("lightning_fabric.utilities.exceptions", "train").MisconfigurationException
    try:
        fabric = need("lightning_fabric", "train").Fabric(
            accelerator=config.device, devices=config.devices, strategy=strategy, precision=config.precision
        )
    except (wrong, RuntimeError) as e:
        raise RuntimeError(f"device {config.device}, {config.devices} of them: {e}") from e
    fabric.launch()
    return fabric


def fit(model: nn.Module, data: Task, config: TrainConfig, out: Path, fabric: Any = None) -> Position:
    """Train the model, from the newest checkpoint in the folder `out` where it has one.

    A run bounded by steps that is killed and resumed has, bit for bit, the losses of an unbroken one (same
    machine, devices, strategy and number of threads). Raises ValueError where the data is not of the task
    in the config, RuntimeError where a gradient is not finite.
    """
    if data.name != name_of(config.task):
        raise ValueError(f"task is {config.task}, the data is {data.name}")
    out.mkdir(parents=True, exist_ok=True)
    loop = _Loop(model, data, config, out, fabric or launch(config))
    try:
        while not loop.ended:
            loop.advance()
    finally:
        loop.report.close()
    loop.report.draw()
    return loop.position


class _Loop:
    """A run: its steps, and when it is evaluated, saved and ended."""

    def __init__(self, model: nn.Module, data: Task, config: TrainConfig, out: Path, fabric: Any) -> None:
        self.data, self.config, self.out, self.fabric = data, config, out, fabric
        newest = checkpoint.last(out)
        fabric.barrier()  # all have looked before the first one saves
        self.step, self.position = Stepper(model, data, config, fabric), Position()
        self.average = Average(model, config.average)
        if newest:  # once the model has the dtype of the run
            checkpoint.weights(newest, model)
            self.position = checkpoint.position(newest)
            self.step.restore(checkpoint.load(newest, model, self.step.moments))
            self.average.restore(checkpoint.averaged(newest))
        else:
            self._save()
        self.began = time.monotonic() - self.position.seconds
        self.saved = time.monotonic()
        self.ended = self._done()
        self.report = Report(out, config, self.position.step, data, not fabric.is_global_zero)

    def advance(self) -> None:
        """One step, with its evaluation, row of metrics and checkpoint where they are due."""
        started, lr = time.monotonic(), self.config.lr * self._share()
        loss, norm = self.step(self.position.step, lr)
        speed = self.step.size / (time.monotonic() - started)
        self.position = replace(self.position, step=self.position.step + 1, seconds=self._seconds())
        self.ended = self._done()
        score = self._evaluate() if self.ended or self.position.step % self.config.every == 0 else None
        if score is not None:
            self.ended = self.ended or self._done()
        if self.ended:  # by a clock that went on since the step noted it
            self.position = replace(self.position, seconds=self._seconds())
        self.report.add(
            {
                "step": self.position.step,
                "loss": loss,
                **({} if self.config.smoothing else self.data.measures(loss)),
                "lr": lr,
                "gradient_norm": norm,
                "tokens_per_s": round(speed),
                "seconds": round(self.position.seconds, 3),
                f"valid_{self.data.metric}": score,
            },
            self._left(),
        )
        if score is not None or time.monotonic() - self.saved > SAVE_SECONDS:
            self._save()

    def _done(self) -> bool:
        """Whether a bound is reached; the first process decides, as clocks differ."""
        ended = self._spent() >= 1 or self._enough()
        return bool(self.fabric.broadcast(ended)) if self.fabric.world_size > 1 else ended

    def _enough(self) -> bool:
        """Whether a score so far was as good as the options ask for."""
        until, best = self.config.until, self.position.best_score
        return until is not None and best is not None and not self.data.better(until, best)

    def _seconds(self) -> float:
        return time.monotonic() - self.began

    def _spent(self) -> float:
        """The share of the run that is done: of its steps or of its minutes, whichever is more."""
        steps, minutes = self.config.last, self.config.minutes
        by_steps = self.position.step / steps if steps else 0.0
        return max(by_steps, self._seconds() / (60 * minutes) if minutes else 0.0)

    def _left(self) -> float:
        return max(self.position.seconds * (1 / self._spent() - 1), 0.0)

    def _share(self) -> float:
        return rate(self.position.step, self.config.warmup, self._spent())

    def _evaluate(self) -> float:
        """The metric on what is held out; remembered where it is the best so far."""
        config, model = self.config, self.step.model
        self.average.take()
        model.eval()
        with self.average.applied(), self.fabric.autocast():
            score = self.data.score(model, config.context, config.windows)
        model.train()
        best = self.position.best_score
        if best is None or self.data.better(score, best):
            self.position = replace(self.position, best_step=self.position.step, best_score=score)
        return score

    def _save(self) -> None:
        averaged = self.average.tensors()
        with self.average.applied():
            parts = self.step.whole()
            if self.fabric.is_global_zero:
                checkpoint.save(self.out, self.position, *parts, averaged, self.config, self.data.vocabulary)
        self.saved = time.monotonic()
