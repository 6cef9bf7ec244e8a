"""`recurra demo`: minGRU beside a GRU of its size, on real text, in the same minutes; then it writes."""

import sys
from pathlib import Path
from statistics import median
from time import monotonic
from typing import Annotated, Any

import typer

from recurra.bench.language import Step
from recurra.bench.report import Row, markdown
from recurra.cli.generate import generate
from recurra.cli.train import train
from recurra.models import SequenceModel
from recurra.tasks.losses import bits, windows_loss
from recurra.tasks.text import Text
from recurra.train import TrainConfig, checkpoint
from recurra.train.metrics import rows

# What all have in common.
PLAN: dict[str, Any] = {"depth": 3, "context": 1024, "every": 250, "windows": 16, "device": "cpu"}
# The GRU has matrices for its past too: narrower blocks give it as many parameters. The learning rates are
# first choices, for neither a search.
RUNS: dict[str, dict[str, Any]] = {
    "mingru": {"width": 192, "expansion": 1.0, "batch": 1, "lr": 4e-3},
    "gru": {"width": 160, "expansion": 1.1, "batch": 1, "lr": 2e-3},
}
# Held-out windows of the table; while it trains, a model is evaluated on `windows` of them.
WINDOWS, TOKENS, PROMPT = 64, 500, "def "
NAMES = {"mingru": "minGRU", "gru": "GRU (recurra)", "nn.GRU": "GRU (torch.nn)"}
COLUMNS = ("model", "parameters", "steps", "training tokens/s", "held-out bits/byte")


def demo(
    minutes: Annotated[float, typer.Option(min=0.001, help="Training time of each model.")] = 2.0,
    out: Annotated[Path, typer.Option(help="Folder of the runs.")] = Path("demo"),
) -> None:
    """Train minGRU, then a GRU of its size for as long, on Python's own library; then write with minGRU.

    Each is a run in the folder: a demo that was stopped goes on where it was, its minutes counted.
    """
    for name, options in RUNS.items():
        print(f"\n{NAMES[name]}: {minutes:g} minutes on Python's own library", file=sys.stderr)
        train({**PLAN, **options, "model": name, "minutes": minutes}, out / name, "auto")
    text = Text.load(out / "mingru" / "text")
    print(f"\n{table(out, text, seconds=min(10.0, 6 * minutes))}", flush=True)
    generate(out / "mingru", PROMPT, TOKENS)


def table(out: Path, text: Text, seconds: float) -> str:
    """Both runs, measured on the same held-out windows, and torch.nn's GRU, timed alone."""
    made: list[Row] = [_measured(out / name, text) for name in RUNS]
    reference = {"model": NAMES["nn.GRU"], "training tokens/s": f"{_speed(text, seconds):,.0f}"}
    return markdown(COLUMNS, [*made, {**reference, "parameters": made[-1]["parameters"]}])


def _measured(run: Path, text: Text) -> Row:
    newest = checkpoint.last(run) or run
    model = SequenceModel.from_pretrained(checkpoint.best(run))
    loss = windows_loss(model, text.valid, PLAN["context"], WINDOWS)
    speeds = [float(row["tokens_per_s"]) for row in rows(run / "metrics.csv")]
    values = (
        NAMES[run.name],
        f"{sum(p.numel() for p in model.parameters()):,}",
        f"{checkpoint.position(newest).step:,}",
        f"{median(speeds):,.0f}",
        f"{bits(loss, text.bytes_per_token):.3f}",
    )
    return dict(zip(COLUMNS, values, strict=True))


def _speed(text: Text, seconds: float) -> float:
    """Tokens per second of training with torch.nn's GRU in the place of ours: median of its steps."""
    config = TrainConfig(**{**PLAN, **RUNS["gru"], "model": "nn.GRU"})
    step, times, start = Step(config, text), list[float](), monotonic()
    step()
    while not times or monotonic() - start < seconds:
        began = monotonic()
        step()
        times.append(monotonic() - began)
    return config.batch * config.context / median(times)
