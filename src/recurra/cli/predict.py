"""`recurra predict`: what a trained encoder and decoder answer, line by line."""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer

from recurra.bench.plot import canvas
from recurra.cli.generate import Run, Weights, opened
from recurra.models import SequenceToSequence, quantize
from recurra.models.translate import answers, maps
from recurra.tasks.parallel import lines_of

Sentences = Annotated[str, typer.Argument(metavar="FILE|-", help="Sentences, one a line; -: standard input.")]


def predict(
    run: Run,
    file: Sentences = "-",
    beam: Annotated[int, typer.Option(min=1, help="Sentences that are kept; 1: the likeliest token.")] = 5,
    n_best: Annotated[int, typer.Option(min=1, help="Answers to a sentence, with their scores.")] = 1,
    weights: Weights = "fp32",
    picture: Annotated[
        Path | None,
        typer.Option("--map", metavar="FILE.png", help="What of the first sentence each word comes from."),
    ] = None,
) -> None:
    """Answer each line as soon as it is there; the empty line to an empty one."""
    model = quantize(opened(run), weights)
    if not isinstance(model, SequenceToSequence):
        raise ValueError(f"{run} is no encoder and decoder: it goes on from a text, see recurra generate")
    if n_best > beam:
        raise ValueError(f"--n-best must be at most --beam, {beam}, got {n_best}")
    # A file is there at once, of the standard input nobody knows when the next line comes.
    vocabulary: Any = model.vocabulary  # without which there are no answers
    found = answers(model, _read(file), beam, 1 if file == "-" else 64)
    undrawn = picture
    for line, hypotheses in found:
        if undrawn:
            _draw(model, line, hypotheses[0].tokens, undrawn)
            undrawn = None
        for tokens, score in hypotheses[:n_best]:
            text = vocabulary.decode(tokens)
            print(f"{score:.4f}\t{text}" if n_best > 1 else text, flush=True)
    if undrawn:
        raise ValueError(f"--map: {file} has no sentence to draw")


def _read(file: str) -> Iterator[str]:
    if file == "-":
        yield from (line.rstrip("\n") for line in sys.stdin)
    else:
        yield from lines_of(Path(file))


def _draw(model: Any, line: str, target: list[int], path: Path) -> None:
    """A panel a map: what it writes from top to bottom, what it reads from left to right."""
    vocabulary, source = model.vocabulary, model.vocabulary.encode(line)
    words = [[*(vocabulary.decode([token]) for token in tokens), "end"] for tokens in (source, target)]
    found = maps(model, source, target, vocabulary.size)
    picture, panels = canvas(len(found), line)
    for axes, (title, shares) in zip(panels, found.items(), strict=True):
        axes.imshow(shares.numpy(), cmap="Blues", vmin=0, vmax=1, aspect="auto")
        axes.set_xticks(range(len(words[0])), words[0], rotation=90, fontsize=7)
        axes.set_yticks(range(len(words[1])), words[1], fontsize=7)
        axes.set_title(title, fontsize=9)
    picture.savefig(path, dpi=110)
