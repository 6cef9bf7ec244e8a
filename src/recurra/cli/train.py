"""`recurra train`: every option of TrainConfig is an option here."""

import dataclasses
import inspect
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from recurra.train import checkpoint
from recurra.train.config import TrainConfig, kind_of, read
from recurra.train.loop import launch
from recurra.train.metrics import unit
from recurra.train.precision import advice
from recurra.train.run import prepare
from recurra.train.run import train as run_to_end

# Options that are told by their place.
PLACES = {"source": "FILE|FOLDER|-", "target": "TARGET"}
Out = Annotated[Path, typer.Option(help="Folder of the run.")]
Resume = Annotated[str, typer.Option(metavar="no|auto", help="auto: go on where the folder has a run.")]
File = Annotated[Path | None, typer.Option("--config", metavar="FILE.yaml", help="Options from a file.")]


def train(options: dict[str, Any], out: Path, resume: str = "no", file: Path | None = None) -> None:
    """Train a new run in the folder `out`, or go on with the one that is there."""
    if resume not in {"no", "auto"}:
        raise typer.BadParameter(f"--resume is no or auto, got {resume!r}")
    given = (read(file) if file else {}) | options
    if resume == "no" and checkpoint.last(out):
        raise typer.BadParameter(f"{out} holds a run: go on with --resume auto, or name another --out")
    try:
        run = prepare(given, out)
    except ValueError as e:
        raise typer.BadParameter(str(e)) from e
    fabric = launch(run.config)
    if fabric.is_global_zero and (said := advice(run.config.precision, fabric.device)):
        print(f"recurra: {said}", file=sys.stderr)
    position, data = run_to_end(run, fabric)
    if fabric.is_global_zero:
        best = position.best_score
        end = "" if best is None else f", best {best:.3f} {unit(data.metric)} held out"
        print(f"{out}: {position.step} steps{end}")


def _parameter(option: "dataclasses.Field[Any]") -> inspect.Parameter:
    """An option of TrainConfig in the words of typer; None stands for not given."""
    kind = kind_of(option)
    default = "" if option.default in {None, ""} else f" [default: {option.default}]"
    about = {"help": option.metadata["help"] + default, "show_default": False}
    least = option.metadata["at_least"]
    if option.name in PLACES:
        given: Any = typer.Argument(metavar=PLACES[option.name], **about)
    elif kind in {int, float}:
        given = typer.Option(f"--{option.name}", min=least, **about)
    else:
        given = typer.Option(metavar="|".join(filter(None, option.metadata["among"])) or None, **about)
    annotation = Annotated[kind | None, given]  # type: ignore[valid-type]
    return inspect.Parameter(option.name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=annotation)


def command(*, out: Path, resume: str, config: Path | None, **options: Any) -> None:
    """Train a model; writes model, checkpoints and metrics into a folder.

    On the text of FILE, without FILE on Python's own standard library, or on another --task; for
    --task translation on the lines of FILE and those of TARGET. A killed run goes on with --resume auto.
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
