"""`recurra steer`: what a direction in a model's stream, or in its states, does to its answers."""

from pathlib import Path
from typing import Annotated

import torch
import typer

from recurra.bench.report import Row, markdown, record, write_record, write_rows
from recurra.cli.generate import Run, writer
from recurra.cli.page import leave
from recurra.interp import pages
from recurra.interp.contrast import METHODS, contrast
from recurra.interp.doses import MULTIPLIERS, Dose, Writing, sweep
from recurra.interp.pairs import Pair, encode_pairs, read_pairs
from recurra.interp.steering import save_vectors
from recurra.interp.subject import Place
from recurra.models.vocabulary import Vocabulary
from recurra.train.progress import Line

COLUMNS = ("on", "block", "multiplier", "matching", "change", "low", "high", "p", "nonsense", "bits/byte")
# Of pairs that come without others to judge by: one of so many is held out.
SHARE = 5
Number = Annotated[list[int] | None, typer.Option(min=0, help="Block, from 0; repeatable; default: all.")]


def steer(  # noqa: PLR0913, PLR0917 - a person's options, each by its name
    run: Run,
    pairs: Annotated[
        Path, typer.Argument(metavar="PAIRS", help="JSON or CSV: prompt, matching, not_matching.")
    ],
    test: Annotated[
        Path | None, typer.Option(help="Pairs to judge by; default: each fifth of PAIRS.")
    ] = None,
    block: Number = None,
    multiplier: Annotated[list[float] | None, typer.Option(help="Repeatable; default: -3 to 3.")] = None,
    state: Annotated[bool, typer.Option("--state", help="Also the state, alone and with the block.")] = False,
    method: Annotated[str, typer.Option(help=f"One of {', '.join(METHODS)}.")] = "difference",
    at: Annotated[str, typer.Option(help="What vectors are read at: last token, or answer.")] = "last",
    template: Annotated[str, typer.Option(help="Around the question of an A/B set, at {}.")] = "{}\n",
    text: Annotated[int, typer.Option(min=0, help="Tokens to write and to judge, for eight prompts.")] = 32,
    out: Annotated[Path | None, typer.Option(help="Folder for what is made; default: RUN/steer.")] = None,
) -> None:
    """Find what sets matching answers apart, add it in each block, and print what the model then answers.

    matching: p(matching) / (p(matching) + p(not matching)); nonsense: what is left of 1; bits/byte: of text
    written so, under the model without steering. p of a permutation over prompts, for each row by itself.
    """
    if "{}" not in template:
        raise typer.BadParameter(f"--template must hold {{}}, where the question goes, got {template!r}")
    model, vocabulary = writer(run)
    fitted, judged = _split(pairs, test, template, vocabulary)
    folder, line = out or run / "steer", Line()
    kinds = ("block", "state") if state else ("block",)
    blocks = sorted(set(block)) if block else range(len(model.blocks))
    places = [Place(kind, i) for i in blocks for kind in kinds]

    def reading(texts: int) -> None:
        line.show(f"read {texts}/{2 * len(fitted)} texts")

    vectors = contrast(model, fitted, places, method, at, reading)
    folder.mkdir(parents=True, exist_ok=True)
    save_vectors(model, vectors, folder / "vectors.safetensors")
    writing = Writing(text, vocabulary.count_bytes) if text else None

    def told(dose: Dose) -> None:
        line.show(f"{dose.on} {dose.block}, multiplier {dose.multiplier:g}: {100 * dose.change:+.1f} points")

    doses = sweep(model, judged, vectors, multiplier or MULTIPLIERS, writing, told)
    line.keep(f"{len(doses)} settings, {len(fitted)} pairs to find them, {len(judged)} to judge by")
    rows: list[Row] = [dict(zip(COLUMNS, dose, strict=True)) for dose in doses]
    write_rows(folder / "steer.csv", COLUMNS, rows)
    made = {"fitted": len(fitted), "judged": len(judged), "method": method, "at": at}
    write_record(folder / "steer.json", record(torch.get_num_threads()) | made)
    leave(folder / "steer", f"Steering {run}", list(pages.steering(COLUMNS, rows)))
    print(f"{markdown(COLUMNS, rows)}\nin {folder}: vectors, steer.csv and steer.html")


def _split(
    path: Path, test: Path | None, template: str, vocabulary: Vocabulary
) -> tuple[list[Pair], list[Pair]]:
    """Pairs to find vectors with, and pairs to judge them by."""
    pairs = encode_pairs(read_pairs(path, template), vocabulary.encode)
    if test:
        return pairs, encode_pairs(read_pairs(test, template), vocabulary.encode)
    if len(pairs) < SHARE:
        raise ValueError(f"{path} holds {len(pairs)} pairs, fewer than {SHARE}: name others by --test")
    held = pairs[SHARE - 1 :: SHARE]
    return [pair for i, pair in enumerate(pairs) if i % SHARE != SHARE - 1], held
