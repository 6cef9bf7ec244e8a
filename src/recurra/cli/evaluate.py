"""`recurra eval`, `info`, `models` and `tasks`: what a run is worth, what it is, and what there is."""

import dataclasses
import importlib
from collections import Counter
from math import gcd
from pathlib import Path
from typing import Annotated, Any, cast

import torch
import typer

from recurra.blocks.stack import STACKS
from recurra.blocks.table import BLOCKS
from recurra.cli.generate import Weights, opened
from recurra.models import SequenceModel, SequenceToSequence, language_model, quantize
from recurra.models.classic import CLASSIC
from recurra.ops import native
from recurra.tasks.quality import side_by_side
from recurra.tasks.table import TASKS, Task, parse
from recurra.tasks.text import Text
from recurra.tasks.translation import Translation
from recurra.train import checkpoint
from recurra.train.config import TrainConfig
from recurra.train.metrics import unit
from recurra.train.samples import sheet

# What is asked of a run is not asked of a model alone, of which nobody knows the task.
Run = Annotated[Path, typer.Argument(metavar="RUN", help="Folder of a run.")]


def evaluate(
    run: Run,
    file: Annotated[
        str | None, typer.Argument(metavar="FILE", help="Text; none: what the run held out.")
    ] = None,
    target: Annotated[str | None, typer.Argument(metavar="TARGET", help="Translations of its lines.")] = None,
    context: Annotated[
        list[int] | None,
        typer.Option(min=1, help="Length of windows or sequences; repeatable; default: the run's."),
    ] = None,
    weights: Weights = "fp32",
    samples: Annotated[bool, typer.Option("--samples", help="Also write texts to RUN/samples.md.")] = False,
    back: Annotated[
        Path | None,
        typer.Option(metavar="RUN", help="A run that translates back: how much of the source returns."),
    ] = None,
) -> None:
    """What a run is worth at its task; text: bits per byte and perplexity, fresh and with carried state."""
    model, folder = quantize(opened(run), weights), checkpoint.best(run)
    options = checkpoint.options(folder)
    task = parse(options.task)
    if target and not task.paired:
        raise ValueError(f"TARGET is for tasks with pairs, the task of {run} is {options.task}")
    given = (file, target) if target else file
    data = task.read(given, model.vocabulary) if file else task.load(run)
    if back:
        data = _returning(data, opened(back))
    print(f"{options.task}; model of step {checkpoint.position(folder).step}, weights in {weights}")
    print("\n".join(data.report(model, options.context, context or ())))
    if samples:
        _write_samples(run, model, task.load(run))


def _returning(data: Task, back: Any) -> Task:
    answering = isinstance(back, SequenceToSequence) and back.vocabulary is not None
    if not (isinstance(data, Translation) and answering):
        raise ValueError("back: both runs must be of translation, each in its direction")
    return dataclasses.replace(data, back=back)


def _write_samples(run: Path, model: Any, data: Task) -> None:
    if isinstance(data, Translation):
        pairs, written = data.samples(model)
        text = side_by_side(pairs.sources, pairs.targets, {run.name: written})
    elif isinstance(data, Text):
        text = sheet(model, data)
    else:
        raise ValueError(f"{run} writes no samples: its task is {data.name}")
    (run / "samples.md").write_text(text, encoding="utf-8")
    print(f"samples: {run / 'samples.md'}")


def info(run: Run) -> None:
    """What a run is: its task and model, and how far it got."""
    model, folder = opened(run), checkpoint.best(run)
    options = checkpoint.options(folder)
    data = parse(options.task).load(run)
    position = checkpoint.position(checkpoint.last(run) or folder)
    score = position.best_score
    rows = {
        "task": options.task,
        "model": f"{_blocks(options)}, width {options.width}, depth {options.depth}",
        "parameters": f"{_size(model):,}",
        "state": f"{_state_size(model):,} numbers",
        "vocabulary": f"{options.vocabulary if data.vocabulary else 'none'}, {_inputs(data)}",
        "data": data.source,
        "context": f"{options.context}, {'state carried' if options.carry else 'fresh windows'}",
        "steps": f"{position.step}, {position.seconds:,.0f} s",
        unit(data.metric): "-" if score is None else f"{score:.4f} at step {position.best_step}",
        "checkpoint": str(folder),
    }
    print("\n".join(f"{name:11} {value}" for name, value in rows.items()))


def _blocks(options: TrainConfig) -> str:
    """Names, with how many of each there are to one of another."""
    counts = Counter(options.layers)
    least = gcd(*counts.values())
    return ", ".join(f"{n // least} {name}" if n > least else name for name, n in counts.items())


def _inputs(data: Task) -> str:
    return f"{data.channels} real numbers a step" if data.channels else f"{data.size} tokens"


def models(
    width: Annotated[int, typer.Option(min=1, help="Width of the models counted.")] = 384,
    depth: Annotated[int, typer.Option(min=1, help="Depth of the models counted.")] = 6,
) -> None:
    """The models there are: equation, state of one sequence, parameters over bytes, kernels in use."""
    print(f"width {width}, depth {depth}, kernels {native.level()}\n")
    wide = max(len(row.equation) for row in BLOCKS.values())
    print(f"{'model':11} {'parameters':>12} {'state':>8}  {'equation':{wide}}  paper")
    for name, row in BLOCKS.items():
        model = language_model(name, width=width, depth=depth)
        print(f"{name:11} {_size(model):12,} {_state_size(model):8,}  {row.equation:{wide}}  {row.paper}")
    for name, (blocks, pattern) in STACKS.items():
        print(f"{name:11} {', '.join(blocks)} in turn: --pattern {pattern}, unless another is given")
    print(f"{CLASSIC:11} encoder and decoder of torch.nn.LSTM with attention: for tasks with pairs")


def tasks() -> None:
    """The tasks there are: what `train --task` takes, with the options and the context of each."""
    for name, kind in TASKS.items():
        options = ",".join(f"{field.name}={field.default}" for field in dataclasses.fields(cast(Any, kind)))
        about = (importlib.import_module(kind.__module__).__doc__ or "").splitlines()[0]
        print(f"{f'{name}:{options}'.rstrip(':'):45} context {kind().context:<5}{about}")


def _size(model: torch.nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


def _state_size(model: SequenceModel | SequenceToSequence) -> int:
    """Numbers in the state of one sequence; of pairs, behind a source of one token."""
    one = torch.zeros(1, dtype=torch.int64)
    with torch.no_grad():
        if isinstance(model, SequenceToSequence):
            return _numbers(model.step(one, model.encode(one[None], one + 1))[1])
        nothing = torch.zeros(1, model.channels) if model.channels else one
        state = model.step(nothing)[1]
    return _numbers(state)


def _numbers(state: Any) -> int:
    return state.numel() if isinstance(state, torch.Tensor) else sum(map(_numbers, state))
