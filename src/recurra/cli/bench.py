"""`recurra bench`: measure, print a table, leave CSV, record and picture behind."""

import os
import sys
from pathlib import Path
from typing import Annotated

import torch
import typer

from recurra.bench import layers as layer_bench
from recurra.bench import step as step_bench
from recurra.bench import swap as swap_bench
from recurra.bench.plot import draw_long, draw_shapes
from recurra.bench.report import Row, markdown, progress, record, write_record, write_rows, write_text
from recurra.bench.swap_tasks import TASKS, default_tasks

app = typer.Typer(help="Measure speed and quality on this machine.", rich_markup_mode=None)

CORES = os.cpu_count() or 1
Out = Annotated[Path, typer.Option(help="Folder for the results.")]
Threads = Annotated[int, typer.Option(min=1, help="Threads that torch and the kernels use.")]


def shape(words: str) -> tuple[int, int, int]:
    """B,T,D as three positive numbers."""
    try:
        batch, time, width = (int(word) for word in words.split(","))
    except ValueError:
        raise typer.BadParameter(f"{words!r} is not B,T,D, such as 16,512,256") from None
    if min(batch, time, width) < 1:
        raise typer.BadParameter(f"{words!r} has a size below 1")
    return batch, time, width


@app.callback()
def bench() -> None:
    pass


@app.command()
def layers(
    shapes: Annotated[
        list[str] | None, typer.Option("--shape", metavar="B,T,D", help="Batch, steps, width; repeatable.")
    ] = None,
    long: Annotated[bool, typer.Option("--long", help="T from 64 to 65,536 at batch 1, width 256.")] = False,
    repeats: Annotated[int, typer.Option(min=1, help="Repeats of each contender; slow ones get fewer.")] = 21,
    threads: Threads = CORES,
    out: Out = Path("results"),
) -> None:
    """Forward + backward of MinGRU and MinLSTM beside torch.nn, peers and their own matrix products."""
    if long and shapes:
        raise typer.BadParameter("--long and --shape exclude each other")
    chosen = [shape(words) for words in shapes or []] or (layer_bench.LONG if long else layer_bench.SHAPES)
    stem, groups = "long" if long else "layers", []
    for rows in layer_bench.run(chosen, repeats, threads, progress):
        groups.append(rows)
        print("B = {batch}, T = {time}, D = {width}\n".format(**rows[0]))
        print(markdown(layer_bench.PRINTED, rows), flush=True)
        write_rows(out / f"{stem}.csv", layer_bench.COLUMNS, [row for group in groups for row in group])
    made = record(threads)
    write_record(out / f"{stem}.json", made)
    draw(out / f"{stem}.png", groups, f"{made['cpu']}, {threads} threads, torch {made['torch']}, fp32")


def draw(path: Path, groups: list[list[Row]], title: str) -> None:
    """The picture, or one line that says what it lacks: the numbers are worth having without it."""
    try:
        (draw_long if path.stem == "long" else draw_shapes)(path, groups, title)
    except RuntimeError as e:
        print(f"recurra: no picture: {e}", file=sys.stderr)


@app.command()
def step(
    repeats: Annotated[int, typer.Option(min=1, help="Repeats of each contender, of 20 calls each.")] = 200,
    out: Out = Path("results"),
) -> None:
    """One token at batch 1 on one thread, against reading the weights; call overhead at hidden 32."""
    rows = step_bench.run(repeats, progress)
    print(markdown(step_bench.COLUMNS, rows))
    write_rows(out / "step.csv", step_bench.COLUMNS, rows)
    write_record(out / "step.json", record(1))


@app.command()
def swap(
    tasks: Annotated[
        str | None,
        typer.Option(metavar="A,B", help="Of adding, digits, bytes, vowels; default: all at hand."),
    ] = None,
    seeds: Annotated[int, typer.Option(min=1, help="Seeds of each run.")] = 3,
    steps: Annotated[
        int | None, typer.Option(min=1, help="Training steps; default: each task's own.")
    ] = None,
    threads: Threads = CORES,
    out: Out = Path("results"),
) -> None:
    """nn.GRU and nn.LSTM against MinGRU and MinLSTM of equal size: quality and training time.

    Runs that the CSV in the folder already holds are not repeated.
    """
    chosen = tasks.split(",") if tasks else default_tasks()
    if unknown := set(chosen) - set(TASKS):
        raise typer.BadParameter(f"--tasks are {', '.join(TASKS)}, got {', '.join(sorted(unknown))}")
    torch.set_num_threads(threads)
    table = swap_bench.table(swap_bench.run(out / "swap.csv", chosen, seeds, steps, progress))
    print(table)
    write_text(out / "swap.md", table)
    write_record(out / "swap.json", record(threads))
