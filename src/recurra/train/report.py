"""All that a run leaves for people to read: the progress line, metrics, curve and TensorBoard events."""

from pathlib import Path
from typing import Any

from recurra.extras import need
from recurra.tasks.table import Task
from recurra.train.config import TrainConfig
from recurra.train.metrics import Metrics, draw, rows, unit
from recurra.train.progress import Line, clock

__all__ = ["Report"]

# Between what the loss says and what was held out.
COLUMNS = ("lr", "gradient_norm", "tokens_per_s", "seconds")


class Report:
    """Takes a row of metrics a step and tells it everywhere; `silent` in all processes but the first."""

    def __init__(self, out: Path, config: TrainConfig, step: int, data: Task, silent: bool) -> None:
        self.out, self.silent, self.speed = out, silent, 0.0
        measures, self.valid = list(data.measures(0.0)), f"valid_{data.metric}"
        # A loss of smoothed targets says nothing of what is measured: those columns stay empty.
        self.measured = [] if config.smoothing else measures
        self.of = f"/{config.last}" if config.last else ""
        if not silent:
            self.board = _board(out, step) if config.tensorboard else None
            columns = ["step", "loss", *measures, *COLUMNS, self.valid]
            self.line, self.metrics = Line(), Metrics(out / "metrics.csv", columns, step)

    def add(self, row: dict[str, Any], left: float) -> None:
        """Tell a step; an evaluation gets a line that stays."""
        if self.silent:
            return
        self.metrics.add(row)
        if self.board:
            for name in (name for name, value in row.items() if name != "step" and value is not None):
                self.board.add_scalar(name, row[name], row["step"])
        self.speed = 0.9 * self.speed + 0.1 * row["tokens_per_s"] if self.speed else row["tokens_per_s"]
        said = "".join(f"  {row[name]:.3f} {unit(name)}" for name in self.measured)
        text = (
            f"step {row['step']}{self.of}  loss {row['loss']:.3f}{said}  {self.speed:,.0f} tokens/s  "
            f"{clock(left)} left"
        )
        score = row[self.valid]
        if score is None:
            self.line.show(text)
        else:
            self.line.keep(f"{text}  held-out {score:.3f} {unit(self.valid.removeprefix('valid_'))}")

    def close(self) -> None:
        """End the files."""
        if self.silent:
            return
        self.metrics.close()
        if self.board:
            self.board.close()

    def draw(self) -> None:
        """The curve of the whole run."""
        if not self.silent:
            columns = [*(self.measured or ["loss"]), self.valid]
            draw(self.out / "loss.png", rows(self.out / "metrics.csv"), columns)


def _board(out: Path, step: int) -> Any:
    need("tensorboard", "tensorboard")
    return need("torch.utils.tensorboard", "train").SummaryWriter(out / "tensorboard", purge_step=step + 1)
