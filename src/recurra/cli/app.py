"""The verbs of `recurra`, and how a fault is told."""

import sys
from typing import Any

import typer

from recurra import show_config
from recurra.cli import bench, reproduce, speed
from recurra.cli.demo import demo
from recurra.cli.evaluate import evaluate, info, models, tasks
from recurra.cli.export import export_transformers
from recurra.cli.generate import generate
from recurra.cli.lens import lens
from recurra.cli.memory import memory
from recurra.cli.predict import predict
from recurra.cli.probe import probe
from recurra.cli.steer import steer
from recurra.cli.train import command as train

# What wrong words on the command line raise, whichever package typer takes it from.
WrongUse: Any = typer.BadParameter.__mro__[1]
# What the library raises for a mistake of a person or a machine; anything else is a bug, traceback and all.
# ImportError: a package of an extra is missing.
FAULTS = (RuntimeError, ValueError, OSError, ImportError)

app = typer.Typer(
    name="recurra",
    help="Recurrent sequence models that train in parallel over time.",
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)
app.command("train")(train)
app.command("generate")(generate)
app.command("predict")(predict)
app.command("eval")(evaluate)
app.command("info")(info)
app.command("lens")(lens)
app.command("steer")(steer)
app.command("memory")(memory)
app.command("probe")(probe)
app.command("models")(models)
app.command("export-transformers")(export_transformers)
app.command("tasks")(tasks)
app.command("demo")(demo)
for command in (speed.figure, speed.roofline, speed.position, speed.report):
    bench.app.command()(command)
app.add_typer(bench.app, name="bench")
app.add_typer(reproduce.app, name="reproduce")


@app.callback()
def recurra() -> None:
    pass


@app.command()
def config() -> None:
    """Print versions, the native kernels in use and the threads."""
    show_config()


def run() -> int:
    """Parse sys.argv and call the verb; the exit code."""
    try:
        code = app(prog_name="recurra", standalone_mode=False) or 0
    except WrongUse as e:
        verb = e.ctx.command_path if e.ctx else "recurra"
        print(f"recurra: {e.format_message()} (see {verb} --help)", file=sys.stderr)
        return 2
    except FAULTS as e:
        print(f"recurra: {e}", file=sys.stderr)
        return 1
    if code == 130:  # Ctrl-C
        print("\nrecurra: stopped; train goes on with --resume auto", file=sys.stderr)
    return int(code)
