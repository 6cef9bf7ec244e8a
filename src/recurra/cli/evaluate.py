"""`recurra eval`, `recurra info` and `recurra models`: what a run is worth, what it is, and what there is."""

import math
from typing import Annotated, Any

import numpy as np
import torch
import typer

from recurra.blocks.table import BLOCKS
from recurra.cli.generate import Run, opened
from recurra.models import SequenceModel, Vocabulary, language_model
from recurra.ops import native
from recurra.tasks.text import Text, bytes_per_token, encode, find
from recurra.train import checkpoint
from recurra.train.evaluate import bits, text_loss, windows_loss
from recurra.train.samples import sheet


def evaluate(
    run: Run,
    file: Annotated[
        str | None, typer.Argument(metavar="FILE", help="Text; none: what the run held out.")
    ] = None,
    context: Annotated[
        int | None, typer.Option(min=1, help="Of fresh windows; default: the training's.")
    ] = None,
    samples: Annotated[bool, typer.Option("--samples", help="Also write RUN/samples.md.")] = False,
) -> None:
    """Bits per byte and perplexity: on fresh windows, and over the whole text with carried state."""
    (model, vocabulary), folder = opened(run), checkpoint.best(run)
    options = checkpoint.options(folder)
    tokens = _tokens(file, vocabulary) if file else Text.load(run / "text").valid
    if len(tokens) < 2:
        raise ValueError(f"{file} holds {len(tokens)} token(s): there is nothing to predict")
    context = min(context or options.context, len(tokens) - 1)
    ratio = bytes_per_token(tokens, vocabulary)
    print(f"{len(tokens):,} tokens, {ratio:.3g} bytes each; model of step {checkpoint.position(folder).step}")
    for name, loss in (
        (f"fresh windows of {context}", windows_loss(model, tokens, context)),
        ("whole text, state carried", text_loss(model, tokens)),
    ):
        print(
            f"{name:26} {bits(loss, ratio):.4f} bits/byte  perplexity {math.exp(loss):.3f}  {loss:.4f} nats"
        )
    if samples:
        (run / "samples.md").write_text(sheet(model, Text.load(run / "text")), encoding="utf-8")
        print(f"samples: {run / 'samples.md'}")


def _tokens(file: str, vocabulary: Vocabulary) -> Any:
    source = find(file)
    parts = list(encode(source.train, vocabulary))
    return np.concatenate(parts) if parts else np.zeros(0, np.uint8)


def info(run: Run) -> None:
    """What a run is: its model, its text, how far it got."""
    folder = checkpoint.best(run)
    (model, vocabulary), options = opened(run), checkpoint.options(folder)
    position = checkpoint.position(checkpoint.last(run) or folder)
    best = "-" if position.best_bits is None else f"{position.best_bits:.4f} at step {position.best_step}"
    rows = {
        "model": f"{', '.join(dict.fromkeys(options.layers))}, width {options.width}, depth {options.depth}",
        "parameters": f"{_size(model):,}",
        "state": f"{_state_size(model):,} numbers",
        "vocabulary": f"{options.vocabulary}, {vocabulary.size} tokens",
        "text": Text.load(run / "text").source,
        "context": f"{options.context}, {'state carried' if options.carry else 'fresh windows'}",
        "steps": f"{position.step}, {position.seconds:,.0f} s",
        "bits/byte": best,
        "checkpoint": str(folder),
    }
    print("\n".join(f"{name:11} {value}" for name, value in rows.items()))


def models(
    width: Annotated[int, typer.Option(min=1, help="Width of the models counted.")] = 384,
    depth: Annotated[int, typer.Option(min=1, help="Depth of the models counted.")] = 6,
) -> None:
    """The models there are: equation, state of one sequence, parameters over bytes, kernels in use."""
    print(f"width {width}, depth {depth}, kernels {native.level()}\n")
    wide = max(len(row.equation) for row in BLOCKS.values())
    print(f"{'model':10} {'parameters':>12} {'state':>8}  {'equation':{wide}}  paper")
    for name, row in BLOCKS.items():
        model = language_model(name, width=width, depth=depth)
        print(f"{name:10} {_size(model):12,} {_state_size(model):8,}  {row.equation:{wide}}  {row.paper}")


def _size(model: torch.nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


def _state_size(model: SequenceModel) -> int:
    """Numbers in the state of one sequence."""
    with torch.no_grad():
        state = model.step(torch.zeros(1, dtype=torch.int64))[1]
    return _numbers(state)


def _numbers(state: Any) -> int:
    return state.numel() if isinstance(state, torch.Tensor) else sum(map(_numbers, state))
