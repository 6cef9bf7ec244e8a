"""`recurra memory`: how long what a model reads lives in its states."""

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from torch import Tensor

from recurra.bench.page import Table
from recurra.bench.report import Row, markdown, record, write_record, write_rows
from recurra.cli.generate import Run, text_of, writer
from recurra.cli.page import leave
from recurra.interp import memory_page
from recurra.interp.figures import tokens_shown
from recurra.interp.lifetimes import Apart, Life, apart, lives
from recurra.models.vocabulary import Vocabulary
from recurra.tasks.losses import device_of
from recurra.tasks.sources import find
from recurra.tasks.text import encode

COLUMNS = ("block", "kind", "channels", "half-life, 10 %", "median", "90 %", "left after 16")
# Tokens whose gates the page shows.
SHOWN = 64


def memory(
    run: Run,
    text: Annotated[
        str | None, typer.Argument(metavar="TEXT", help="A file, or words; none: the run's held-out text.")
    ] = None,
    against: Annotated[
        str | None, typer.Option(metavar="TEXT", help="Also compare states, and trace, with another text.")
    ] = None,
    tokens: Annotated[int, typer.Option(min=2, help="Tokens of a text that are read, at most.")] = 256,
    out: Annotated[Path | None, typer.Option(help="Folder for what is made; default: RUN/memory.")] = None,
) -> None:
    """How long a token lives in the states: half-lives, gates over a text, and two texts side by side.

    half-life: tokens in which a channel forgets half, by the product of its gates on this text. left after
    16 tokens: of a difference in all of a state, root mean square, by the gates or the state's Jacobian.
    """
    model, vocabulary = writer(run)
    texts = _texts(run, (text,) if against is None else (text, against), vocabulary, tokens)
    read = [x[None].to(device_of(model)) for x in texts]
    found = list(lives(model, read[0]))
    both = apart(model, read[0], read[1]) if against is not None else None
    if both is None and not any(life.left for life in found):
        raise ValueError(f"{run}: {' '.join(_notes(found))} Name another text by --against.")
    folder, shown = out or run / "memory", [tokens_shown(x.tolist(), vocabulary) for x in texts]
    _files(folder, found, both, shown[0])
    about = " ".join([f"{len(texts[0])} tokens of {_named(text)}.", *_notes(found)])
    rows = list(_summary(found))
    figures = [*memory_page.lifetimes(found), *memory_page.gates(found, shown[0][:SHOWN])]
    if both:
        figures += memory_page.compared(both, memory_page.titles(found), shown[0], shown[1])
    leave(folder / "memory", f"Memory of {run}", [about, Table(COLUMNS, rows), *figures])
    print(f"{markdown(COLUMNS, rows)}\n{about}\nin {folder}: memory.html and its rows")


def _named(text: str | None) -> str:
    """What the words on the command line stand for."""
    if text is None:
        return "the run's held-out text"
    return text if os.path.exists(text) else "the words given"  # noqa: PTH110 - any words, however long


def _texts(run: Path, given: Sequence[str | None], vocabulary: Vocabulary, limit: int) -> list[Tensor]:
    """The first tokens [T] of each text, of all as many. Raises ValueError for fewer than two."""
    found = [_tokens(run, text, vocabulary, limit) for text in given]
    time = min(map(len, found))
    if time < 2:
        raise ValueError(f"a text must hold at least two tokens, got {time}")
    return [tokens[:time] for tokens in found]


def _tokens(run: Path, text: str | None, vocabulary: Vocabulary, limit: int) -> Tensor:
    tokens: Any = []
    if text is None:
        tokens = text_of(run).valid
    elif os.path.exists(text):  # noqa: PTH110
        tokens = next(encode(find(text).train, vocabulary), tokens)
    else:
        tokens = vocabulary.encode(text)
    return torch.tensor([int(token) for token in tokens[:limit]], dtype=torch.int64)


def _notes(found: Sequence[Life]) -> Iterator[str]:
    """What is not known of blocks, a sentence each reason."""
    reasons = dict.fromkeys((life.name, life.why) for life in found if life.why)
    for name, why in reasons:
        blocks = [str(i) for i, life in enumerate(found) if (life.name, life.why) == (name, why)]
        yield f"No half-lives of {name} (block {', '.join(blocks)}): {why}."


def _summary(found: Sequence[Life]) -> Iterator[Row]:
    """A row a block."""
    for i, life in enumerate(found):
        quantiles: list[float | None] = [None] * 3
        if life.factors is not None:
            at = (torch.tensor([0.1, 0.5, 0.9]) * (len(life.channels) - 1)).round().long()
            quantiles = life.half_lives.sort().values[at].tolist()
        values = (i, life.name, len(life.channels) or None, *quantiles, life.left.get(16))
        yield dict(zip(COLUMNS, values, strict=True))


def _files(folder: Path, found: Sequence[Life], both: Apart | None, tokens: Sequence[str]) -> None:
    """Rows of all that there is, as CSV; what an earlier call left of what there is not goes."""
    folder.mkdir(parents=True, exist_ok=True)
    tables = {"half_life": _half_lives(found), "left": _left(found), "gates": _gates(found, tokens)}
    for name, made in (tables | {"against": _against(both) if both else iter(())}).items():
        path, rows = folder / f"{name}.csv", list(made)
        if rows:
            write_rows(path, list(rows[0]), rows)
        else:
            path.unlink(missing_ok=True)
    write_record(folder / "memory.json", record(torch.get_num_threads()))


def _half_lives(found: Sequence[Life]) -> Iterator[Row]:
    for i, life in enumerate(found):
        for channel, value in zip(life.channels, life.half_lives.tolist(), strict=True):
            yield {"block": i, "channel": channel, "half-life": value}


def _left(found: Sequence[Life]) -> Iterator[Row]:
    for i, life in enumerate(found):
        yield from ({"block": i, "tokens": d, "left": value} for d, value in life.left.items())


def _gates(found: Sequence[Life], tokens: Sequence[str]) -> Iterator[Row]:
    for i, life in enumerate(found):
        if life.factors is not None:
            for t, (token, kept) in enumerate(zip(tokens, life.factors.mean(1).tolist(), strict=True)):
                yield {"block": i, "position": t, "token": token, "kept": kept}


def _against(both: Apart) -> Iterator[Row]:
    for i, (far, moved) in enumerate(zip(both.distance.tolist(), both.moved.tolist(), strict=True)):
        for k, p in enumerate(both.positions):
            yield {"block": i, "position": p, "distance": far[k], "moved": moved[k]}
