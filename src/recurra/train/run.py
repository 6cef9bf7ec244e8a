"""A run in its folder: what its options, and a checkpoint it starts from, make of it; then it trains."""

import dataclasses
from pathlib import Path
from typing import Any, NamedTuple

import torch

from recurra.models import SequenceModel, SequenceToSequence, classic, encoder_decoder, language_model, load
from recurra.models.classic import CLASSIC
from recurra.tasks.quirky.common import Quirky
from recurra.tasks.table import Task, name_of, parse
from recurra.tasks.text import TextFiles
from recurra.train import checkpoint
from recurra.train.checkpoint import Position
from recurra.train.config import FIXED, TrainConfig, write
from recurra.train.loop import fit

__all__ = ["Run", "build", "prepare", "train"]

# What a run that starts from another takes from it: the shape of its model and its vocabulary.
SHAPE = (
    *("task", "vocabulary", "tokens", "model", "encoder", "cross", "tied", "width", "pattern", "depth"),
    *("expansion", "conv", "mlp", "options"),
)
# Tasks of text in a vocabulary: a model of one may go on to another.
TEXTS = (TextFiles, Quirky)


class Run(NamedTuple):
    """A run in the folder `out`, and the checkpoint it starts from: its own where it goes on."""

    config: TrainConfig
    out: Path
    start: Path | None
    goes_on: bool


def prepare(given: dict[str, Any], out: Path) -> Run:
    """The run of these options; one that the folder holds goes on. Raises ValueError, naming the option."""
    newest = checkpoint.last(out)
    start = newest or (checkpoint.best(Path(given["init"])) if given.get("init") else None)
    return Run(_config(given, start, FIXED if newest else SHAPE), out, start, newest is not None)


def train(run: Run, fabric: Any) -> tuple[Position, Task]:
    """Train to the end: where that is, and the task. Leaves model, checkpoints and metrics in the folder."""
    config = run.config
    with fabric.rank_zero_first():
        data = _data(run, anew=not run.goes_on and fabric.is_global_zero)
    if fabric.is_global_zero:
        run.out.mkdir(parents=True, exist_ok=True)
        write(config, run.out / "config.yaml")
    torch.manual_seed(config.seed)
    model = build(config, data.size, data.channels)
    if run.start and not run.goes_on:
        checkpoint.weights(run.start, model)
    return fit(model, data, config, run.out, fabric), data


def build(config: TrainConfig, vocabulary: int, channels: int = 0) -> SequenceModel | SequenceToSequence:
    """The untrained model of these options: an encoder and a decoder where the task has pairs.

    For tokens, or for `channels` real numbers a step. Raises ValueError that names an option that it does
    not have.
    """
    if config.model == CLASSIC:
        return classic(vocabulary, config.width, config.depth, dropout=config.dropout, tied=config.tied)
    sizes, shape, tied = (vocabulary, config.width, config.depth), config.shape, config.tied
    if parse(config.task).paired:
        sides = config.encoder_layers, config.layers
        return encoder_decoder(*sides, *sizes, options=shape, cross=config.cross, tied=tied)
    return language_model(config.layers, *sizes, options=shape, channels=channels, tied=tied)


def _config(given: dict[str, Any], start: Path | None, kept: tuple[str, ...]) -> TrainConfig:
    """Options over those of a checkpoint, of which some are to stay as they are."""
    old = dataclasses.asdict(checkpoint.options(start)) if start else {}
    for name in kept if start else ():
        new = given.get(name, old[name])
        if new != old[name] and not (kept is SHAPE and name == "task" and _akin(new, old[name])):
            raise ValueError(f"{name} is {old[name]} in {start}, it can't become {new}")
    base = old if kept is FIXED else {name: old[name] for name in kept if start}
    config = TrainConfig(**{**base, **given})
    with torch.device("meta"):  # sizes that a block can't take
        build(config, 256)
    return config


def _akin(task: str, other: str) -> bool:
    """Whether a model of one may learn the other: with other options alone, or both of text."""
    return name_of(task) == name_of(other) or all(isinstance(parse(name), TEXTS) for name in (task, other))


def _data(run: Run, anew: bool) -> Task:
    """The task in the run's folder; set up there first where the run is new."""
    task, config = parse(run.config.task), run.config
    if not anew:
        return task.load(run.out)
    vocabulary = load(run.start).vocabulary if run.start else None
    return task.prepare(config.given, run.out, config.vocabulary, config.tokens, vocabulary)
