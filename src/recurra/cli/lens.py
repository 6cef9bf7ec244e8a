"""`recurra lens`: what each block of a trained model would predict, and what its state alone does."""

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer
from torch import Tensor

from recurra.bench.report import markdown, record, write_record, write_rows
from recurra.cli.generate import Run, text_of, writer
from recurra.cli.page import leave
from recurra.interp import depths, pages
from recurra.interp.lens import Lens, LogitLens, StateLens, TunedLens, save_lens
from recurra.interp.tuning import PAPER, QUICK, Recipe, fit, trajectory
from recurra.models import SequenceModel
from recurra.tasks.losses import device_of
from recurra.tasks.text import read
from recurra.train.progress import Line

COLUMNS = ("block", "logit bits/byte", "tuned bits/byte", "logit KL", "tuned KL")
STATE_COLUMNS = ("state bits/byte", "state KL")
# Of a text that comes without its own held-out part: one token of so many is held out.
SHARE = 10
# Tokens of the held-out text that the page shows.
SHOWN = 64


def lens(
    run: Run,
    file: Annotated[
        str | None, typer.Argument(metavar="TEXT", help="Text, its last tenth held out; none: the run's.")
    ] = None,
    paper: Annotated[
        bool, typer.Option("--paper", help="The authors' recipe, for hours; else one for small models.")
    ] = False,
    steps: Annotated[int | None, typer.Option(min=1, help="Training steps; default: the recipe's.")] = None,
    state: Annotated[bool, typer.Option("--state", help="Also a lens on the state of each block.")] = False,
    windows: Annotated[int, typer.Option(min=1, help="Held-out sequences that it is judged by.")] = 64,
    out: Annotated[Path | None, typer.Option(help="Folder for what is made; default: RUN/lens.")] = None,
) -> None:
    """Train a lens for each block; print and write bits per byte and KL by depth, and save the lenses.

    KL to the model's own prediction, in bits per byte, on held-out text. The last row is the model itself.
    """
    model, vocabulary = writer(run)
    recipe, folder = PAPER if paper else QUICK, out or run / "lens"
    recipe = recipe._replace(steps=steps or recipe.steps)
    train, held, ratio = _text(run, model, file)
    context = min(recipe.context, len(held) - 1, len(train) - 1)
    recipe = recipe._replace(context=context)
    batch = depths.feed(model, train, recipe)
    lenses: dict[str, Lens] = {"logit": LogitLens(model), "tuned": TunedLens(model)}
    if state:
        lenses["state"] = StateLens(model, min(16, context))
    folder.mkdir(parents=True, exist_ok=True)
    for name, one in lenses.items():
        if name != "logit":
            _train(name, one, batch, recipe)
            save_lens(one, folder / f"{name}.safetensors")
    rows = depths.rows(lenses, lambda: depths.held_out(model, held, context, windows), ratio)
    columns = COLUMNS + STATE_COLUMNS * state
    write_rows(folder / "depth.csv", columns, rows)
    write_record(folder / "depth.json", record(torch.get_num_threads()) | {"recipe": recipe._asdict()})
    shown = torch.as_tensor(np.asarray(held[:SHOWN], np.int64), device=device_of(model))
    seen = {name: trajectory(one, shown[None]) for name, one in lenses.items()}
    maps = [pages.predictions(name, one, shown.tolist(), vocabulary) for name, one in seen.items()]
    leave(folder / "lens", f"Lenses on {run}", [*maps, *pages.depth(columns, rows)])
    print(f"{markdown(columns, rows)}\nin {folder}: lenses, depth.csv and lens.html")


def _text(run: Path, model: SequenceModel, file: str | None) -> tuple[Any, Any, float]:
    """Tokens to train on, tokens held out, and bytes for each."""
    if file is None:
        text = text_of(run)
        return text.train, text.valid, text.bytes_per_token
    text = read(file, model.vocabulary)
    cut = len(text.valid) - len(text.valid) // SHARE
    if len(text.valid) - cut < 2:
        raise ValueError(f"{file} holds {len(text.valid)} token(s), too few to learn from")
    return text.valid[:cut], text.valid[cut:], text.bytes_per_token


def _train(name: str, one: Lens, batch: Callable[[int], Tensor], recipe: Recipe) -> None:
    line = Line()

    def told(step: int, nats: float) -> None:
        line.show(f"{name} lens, step {step}/{recipe.steps}: KL {nats:.4f} nats")

    fit(one, batch, recipe, told)
    line.keep(f"{name} lens, {recipe.steps} steps")
