"""`recurra train`: every option of TrainConfig is an option here."""

import dataclasses
import inspect
from pathlib import Path
from typing import Annotated, Any

import torch
import typer

from recurra.blocks.table import BLOCKS, configurable
from recurra.models import SequenceModel, language_model
from recurra.tasks.table import Task, parse
from recurra.train import checkpoint
from recurra.train.config import FIXED, TrainConfig, kind_of, read, write
from recurra.train.loop import fit, launch
from recurra.train.metrics import unit

# What a run that starts from another takes from it: the shape of its model and its vocabulary.
SHAPE = ("task", "vocabulary", "tokens", "model", "width", "depth", "expansion", "conv", "mlp")

Out = Annotated[Path, typer.Option(help="Folder of the run.")]
Resume = Annotated[str, typer.Option(metavar="no|auto", help="auto: go on where the folder has a run.")]
File = Annotated[Path | None, typer.Option("--config", metavar="FILE.yaml", help="Options from a file.")]


def train(options: dict[str, Any], out: Path, resume: str = "no", file: Path | None = None) -> None:
    """Train a new run in the folder `out`, or go on with the one that is there."""
    if resume not in {"no", "auto"}:
        raise typer.BadParameter(f"--resume is no or auto, got {resume!r}")
    given = (read(file) if file else {}) | options
    newest = checkpoint.last(out)
    if newest and resume == "no":
        raise typer.BadParameter(f"{out} holds a run: go on with --resume auto, or name another --out")
    start = newest or (checkpoint.best(Path(given["init"])) if given.get("init") else None)
    config = _config(given, start, FIXED if newest else SHAPE)
    fabric = launch(config)
    with fabric.rank_zero_first():
        data = _data(config, out, start, anew=newest is None and fabric.is_global_zero)
    if fabric.is_global_zero:
        out.mkdir(parents=True, exist_ok=True)
        write(config, out / "config.yaml")
    torch.manual_seed(config.seed)
    model = _model(config, data.size)
    if start and not newest:
        checkpoint.weights(start, model)
    position = fit(model, data, config, out, fabric)
    if fabric.is_global_zero:
        best = position.best_score
        said = "" if best is None else f", best {best:.3f} {unit(data.metric)} held out"
        print(f"{out}: {position.step} steps{said}")


def _config(given: dict[str, Any], start: Path | None, kept: tuple[str, ...]) -> TrainConfig:
    """A person's options over those of a checkpoint, of which some are to stay as they are."""
    try:
        old = dataclasses.asdict(checkpoint.options(start)) if start else {}
        for name in kept if start else ():
            if given.get(name, old[name]) != old[name]:
                raise ValueError(f"{name} is {old[name]} in {start}, it can't become {given[name]}")
        base = old if kept is FIXED else {name: old[name] for name in kept if start}
        config = TrainConfig(**{**base, **given})
        with torch.device("meta"):  # sizes that a block can't take
            _model(config, 256)
    except ValueError as e:
        raise typer.BadParameter(str(e)) from e
    return config


def _data(config: TrainConfig, out: Path, start: Path | None, anew: bool) -> Task:
    """The task in the run's folder; set up there first where the run is new."""
    task = parse(config.task)
    if not anew:
        return task.load(out / "text")
    vocabulary = SequenceModel.from_pretrained(start).vocabulary if start else None
    return task.prepare(config.source, out / "text", config.vocabulary, config.tokens, vocabulary)


def _model(config: TrainConfig, vocabulary: int) -> SequenceModel:
    known = {key for name in config.layers if name in BLOCKS for key in configurable(BLOCKS[name])}
    shape = {name: getattr(config, name) for name in ("expansion", "conv", "mlp", "dropout")}
    for name in shape.keys() - known:
        if shape.pop(name) != getattr(TrainConfig, name) and known:
            raise ValueError(f"{name} is not for model {config.model}")
    return language_model(config.layers, vocabulary, config.width, config.depth, options=shape)


def _parameter(option: "dataclasses.Field[Any]") -> inspect.Parameter:
    """An option of TrainConfig in the words of typer; None stands for not given."""
    kind = kind_of(option)
    default = "" if option.default is None else f" [default: {option.default}]"
    about = {"help": option.metadata["help"] + default, "show_default": False}
    least = option.metadata["at_least"]
    if option.name == "source":
        given: Any = typer.Argument(metavar="FILE|FOLDER|-", **about)
    elif kind in {int, float}:
        given = typer.Option(f"--{option.name}", min=least, **about)
    else:
        given = typer.Option(metavar="|".join(option.metadata["among"]) or None, **about)
    annotation = Annotated[kind | None, given]  # type: ignore[valid-type]
    return inspect.Parameter(option.name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=annotation)


def command(*, out: Path, resume: str, config: Path | None, **options: Any) -> None:
    """Train a model; writes model, checkpoints and metrics into a folder.

    On the text of FILE, without FILE on Python's own standard library, or on another --task. A killed run
    goes on with --resume auto.
    """
    train({name: value for name, value in options.items() if value is not None}, out, resume, config)


# typer reads the words of the command from here: the three above, and an option for each of TrainConfig.
command.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
    [
        *map(_parameter, dataclasses.fields(TrainConfig)),
        inspect.Parameter("out", inspect.Parameter.KEYWORD_ONLY, default=Path("run"), annotation=Out),
        inspect.Parameter("resume", inspect.Parameter.KEYWORD_ONLY, default="no", annotation=Resume),
        inspect.Parameter("config", inspect.Parameter.KEYWORD_ONLY, default=None, annotation=File),
    ]
)
