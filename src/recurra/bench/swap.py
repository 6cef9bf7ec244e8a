"""The honest swap table: nn.GRU and nn.LSTM against MinGRU and MinLSTM of 1, 2 and 3 layers.

Equal parameters of the whole model (within 2 %), equal optimizer, learning rate, steps, batches and
order; between the layers of a stack there is nothing. Each finished run is a row of the CSV, and a run
that has its row from the same processor and threads is not repeated.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import mean, median, stdev
from time import perf_counter
from typing import NamedTuple

import torch
from torch import Generator, Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence

import recurra
from recurra.bench.report import Row, cell, markdown, processor, read_rows, write_rows
from recurra.bench.swap_tasks import EMBED, TASKS, Batch, Task

COLUMNS = (
    *("task", "model", "layers", "hidden", "parameters", "seed", "steps", "rate"),
    *("cpu", "threads", "metric", "quality", "seconds"),
)
FAMILIES: dict[str, type[nn.Module]] = {
    "nn.GRU": nn.GRU,
    "nn.LSTM": nn.LSTM,
    "MinGRU": recurra.MinGRU,
    "MinLSTM": recurra.MinLSTM,
}
REPLACES = {"nn.GRU": "nn.GRU", "MinGRU": "nn.GRU", "nn.LSTM": "nn.LSTM", "MinLSTM": "nn.LSTM"}
DEPTHS = {"nn.GRU": (1,), "MinGRU": (1, 2, 3), "nn.LSTM": (1,), "MinLSTM": (1, 2, 3)}


class Run(NamedTuple):
    """One training: what makes it different from every other."""

    task: str
    model: str
    layers: int
    seed: int
    steps: int


class Net(nn.Module):
    """Embedding, recurrent stack, head; read at the last step of each row or at every step."""

    def __init__(self, task: Task, model: str, layers: int, hidden: int) -> None:
        super().__init__()
        self.every_step = task.every_step
        self.embed = task.embed()
        self.rnn = FAMILIES[model](EMBED, hidden, layers, batch_first=True)
        self.head = nn.Linear(hidden, task.outputs)

    def forward(self, batch: Batch) -> Tensor:
        """[B, outputs], or [B, T, outputs] at every step."""
        x = self.embed(batch.x)
        if batch.lengths is None:
            out, state = self.rnn(x)
        elif isinstance(self.rnn, nn.RNNBase):
            packed = pack_padded_sequence(x, batch.lengths, batch_first=True, enforce_sorted=False)
            out, state = self.rnn(packed)
        else:
            out, state = self.rnn(x, lengths=batch.lengths)
        last = state[0][-1] if isinstance(state, tuple) else state[-1]
        y: Tensor = self.head(out if self.every_step else last)
        return y


def size(task: Task, model: str, layers: int, hidden: int) -> int:
    """Parameters of the whole model, which is not made."""
    with torch.device("meta"):
        return sum(p.numel() for p in Net(task, model, layers, hidden).parameters())


def matched(task: Task, model: str, layers: int) -> int:
    """The hidden size that comes nearest to the model which is replaced. Raises ValueError if 2 % off."""
    budget = size(task, REPLACES[model], 1, task.hidden)
    low, high = 1, budget
    while low < high:
        middle = (low + high) // 2
        enough = size(task, model, layers, middle) >= budget
        low, high = (low, middle) if enough else (middle + 1, high)
    hidden = min(max(low - 1, 1), low, key=lambda h: abs(size(task, model, layers, h) - budget))
    if abs(size(task, model, layers, hidden) / budget - 1) > 0.02:
        raise ValueError(f"no width of {layers} layers of {model} has {budget} parameters within 2 %")
    return hidden


def train(net: Net, task: Task, seed: int, steps: int) -> float:
    """Seconds of `steps` steps: Adam, learning rate up over a tenth and down to zero, gradients clipped."""
    generator, up = Generator().manual_seed(seed), max(steps // 10, 1)
    optimizer = torch.optim.Adam(net.parameters(), lr=task.rate)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda s: min((s + 1) / up, 1) * (1 - s / steps))
    start = perf_counter()
    for _ in range(steps):
        batch = task.draw(generator)
        optimizer.zero_grad()
        task.loss(net(batch), batch.target).backward()
        nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        optimizer.step()
        schedule.step()
    return perf_counter() - start


@torch.no_grad()
def quality(net: Net, task: Task) -> float:
    """The task's measure over its test batches, each weighing as much as it has rows."""
    sizes = [len(batch.x) for batch in task.test]
    scores = [float(task.quality(net(batch), batch.target)) * len(batch.x) for batch in task.test]
    return sum(scores) / sum(sizes)


def finish(run: Run, task: Task) -> Row:
    """Train one model and measure it."""
    hidden = matched(task, run.model, run.layers)
    torch.manual_seed(run.seed)
    net = Net(task, run.model, run.layers, hidden)
    seconds = train(net, task, run.seed, run.steps)
    made = {"hidden": hidden, "parameters": size(task, run.model, run.layers, hidden)}
    measured = {"metric": task.metric, "quality": quality(net, task), "seconds": seconds}
    return {**identity(run, task), **made, **measured}


def identity(run: Run, task: Task) -> Row:
    """What must be the same for a row to stand for a run: times of another machine do not."""
    return {
        **run._asdict(),
        "rate": task.rate,
        "cpu": processor(),
        "threads": torch.get_num_threads(),
    }


def find(rows: Sequence[Row], wanted: Row) -> list[Row]:
    """The row of a run, as it was written by this or an earlier call."""
    return [row for row in rows if all(str(row[k]) == str(v) for k, v in wanted.items())][:1]


def plan(tasks: Sequence[str], seeds: int, steps: int | None, made: dict[str, Task]) -> list[Run]:
    """Every run wanted, seed by seed, so that an interrupted table has whole rounds."""
    return [
        Run(name, model, layers, seed, steps or made[name].steps)
        for name in tasks
        for seed in range(seeds)
        for model, depths in DEPTHS.items()
        for layers in depths
    ]


def run(
    path: Path, tasks: Sequence[str], seeds: int, steps: int | None, say: Callable[[str], None]
) -> list[Row]:
    """Rows of all runs wanted; those that `path` lacks are made now and written as each one ends."""
    made = {name: TASKS[name]() for name in tasks}
    rows = read_rows(path, COLUMNS)
    wanted = plan(tasks, seeds, steps, made)
    for i, one in enumerate(wanted):
        if not find(rows, identity(one, made[one.task])):
            say(f"run {i + 1} of {len(wanted)}: {one.task}, {one.layers} x {one.model}, seed {one.seed}")
            rows.append(finish(one, made[one.task]))
            write_rows(path, COLUMNS, rows)
    return [row for one in wanted for row in find(rows, identity(one, made[one.task]))]


def spread(values: Sequence[float]) -> str:
    """Mean, and the standard deviation where there is one."""
    more = f" ± {cell(stdev(values))}" if len(values) > 1 else ""
    return cell(mean(values)) + more


def table(rows: Sequence[Row]) -> str:
    """Markdown: quality over the seeds, and the seconds that training took."""
    groups: dict[tuple[str, ...], list[Row]] = {}
    for row in rows:
        groups.setdefault((row["task"], row["model"], str(row["layers"])), []).append(row)
    seconds = {key: median(float(row["seconds"]) for row in group) for key, group in groups.items()}
    lines = []
    for (task, model, layers), group in groups.items():
        took, reference = seconds[task, model, layers], REPLACES[model]
        lines.append(
            {
                "task": f"{task} ({group[0]['metric']})",
                "model": model,
                "layers": layers,
                "hidden": group[0]["hidden"],
                "parameters": group[0]["parameters"],
                "quality": spread([float(row["quality"]) for row in group]),
                "training, s": took,
                "times faster": seconds[task, reference, "1"] / took,
            }
        )
    return markdown(list(lines[0]), lines)
