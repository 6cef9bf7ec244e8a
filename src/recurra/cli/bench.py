"""`recurra bench`: measure, print a table, leave CSV, record and picture behind."""

import os
import sys
from pathlib import Path
from typing import Annotated

import torch
import typer

from recurra.bench import accelerate as accelerate_bench
from recurra.bench import generate as generate_bench
from recurra.bench import layers as layer_bench
from recurra.bench import models as model_bench
from recurra.bench import peers as peer_bench
from recurra.bench import step as step_bench
from recurra.bench import swap as swap_bench
from recurra.bench import train as train_bench
from recurra.bench import translate as translate_bench
from recurra.bench.plot import draw_generate, draw_long, draw_models, draw_shapes, draw_train
from recurra.bench.report import Row, markdown, progress, record, write_record, write_rows, write_text
from recurra.bench.speed_plots import draw_figure, draw_position
from recurra.bench.swap_tasks import TASKS, default_tasks
from recurra.blocks.table import BLOCKS
from recurra.cli.demo import PLAN, RUNS

app = typer.Typer(help="Measure speed and quality on this machine.", rich_markup_mode=None)

CORES = os.cpu_count() or 1
PICTURES = {
    "layers": draw_shapes,
    "long": draw_long,
    "train": draw_train,
    "generate": draw_generate,
    "models": draw_models,
    "figure": draw_figure,
    "position": draw_position,
}
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
    leave(out / f"{stem}.png", groups, threads)


def leave(path: Path, groups: list[list[Row]], threads: int) -> None:
    """The record and the picture of some rows."""
    made = record(threads)
    write_record(path.with_suffix(".json"), made)
    draw(path, groups, f"{made['cpu']}, threads: {threads}, torch {made['torch']}")


def draw(path: Path, groups: list[list[Row]], title: str) -> None:
    """The picture, or one line that says what it lacks: the numbers are worth having without it."""
    try:
        PICTURES[path.stem](path, groups, title)
    except RuntimeError as e:
        print(f"recurra: no picture: {e}", file=sys.stderr)


def blocks(words: str) -> list[str]:
    """Names of blocks, parted by commas."""
    try:
        return model_bench.known(words.split(","))
    except ValueError as e:
        raise typer.BadParameter(str(e)) from e


@app.command()
def train(
    model: Annotated[
        str, typer.Option(metavar="A,B", help="Blocks (see recurra models), nn.GRU, nn.LSTM.")
    ] = ",".join(train_bench.MODELS),
    width: Annotated[int, typer.Option(min=1, help="Channels between blocks.")] = 384,
    depth: Annotated[int, typer.Option(min=1, help="Blocks.")] = 6,
    batch: Annotated[int, typer.Option(min=1, help="Windows a step.")] = 4,
    context: Annotated[int, typer.Option(min=1, help="Tokens of a window.")] = 512,
    precision: Annotated[
        str, typer.Option(metavar="A,B", help="Of 32-true, bf16-mixed, which some processors take long over.")
    ] = "32-true,bf16-mixed",
    repeats: Annotated[int, typer.Option(min=1, help="Repeats of each contender; slow ones get fewer.")] = 21,
    threads: Threads = CORES,
    out: Out = Path("results"),
) -> None:
    """A training step of a language model: over its matrix products, in bf16, against the context."""
    try:
        configs = [
            train_bench.plan(name, width, depth, batch, context, kind)
            for name in model.split(",")
            for kind in precision.split(",")
        ]
    except ValueError as e:
        raise typer.BadParameter(str(e)) from e
    groups = []
    for printed, rows in zip(
        (train_bench.PRINTED, train_bench.CONTEXT_PRINTED),
        train_bench.run(configs, repeats, threads, progress),
        strict=True,
    ):
        groups.append(rows)
        print(markdown(printed, rows), flush=True)
        write_rows(out / "train.csv", train_bench.COLUMNS, [row for group in groups for row in group])
    leave(out / "train.png", groups, threads)


@app.command()
def models(
    model: Annotated[str, typer.Option(metavar="A,B", help="Blocks, see recurra models.")] = ",".join(BLOCKS),
    width: Annotated[
        int, typer.Option(min=8, help="Of all blocks, or of minGRU's at equal parameters.")
    ] = 256,
    longest: Annotated[int, typer.Option(min=256, help="The most steps; from 256 on they double.")] = 65536,
    peers: Annotated[
        bool, typer.Option("--peers", help="Also beside mambapy, transformers, xlstm; slow.")
    ] = False,
    repeats: Annotated[int, typer.Option(min=1, help="Repeats of each contender; slow ones get fewer.")] = 21,
    threads: Threads = CORES,
    out: Out = Path("results"),
) -> None:
    """All blocks at equal width and parameters: over their products, and time and memory against T."""
    groups = []
    made = model_bench.run(blocks(model), width, longest, repeats, threads, progress)
    for printed, rows in zip(model_bench.PRINTED, made, strict=True):
        groups.append(rows)
        print(markdown(printed, rows), flush=True)
        write_rows(out / "models.csv", model_bench.COLUMNS, [row for group in groups for row in group])
    leave(out / "models.png", groups, threads)
    if peers:
        rows = peer_bench.run(width, repeats, threads, progress)
        print(markdown(peer_bench.COLUMNS, rows))
        write_rows(out / "peers.csv", peer_bench.COLUMNS, rows)
        write_record(out / "peers.json", record(threads))


@app.command()
def generate(
    model: Annotated[str, typer.Option(metavar="A,B", help="Blocks of ten million parameters.")] = ",".join(
        BLOCKS
    ),
    last: Annotated[int, typer.Option(min=1, help="Tokens of the long text; 1,000,000 takes long.")] = 10_000,
    rounds: Annotated[int, typer.Option(min=1, help="Turns of writing and reading, 20 tokens each.")] = 100,
    out: Out = Path("results"),
) -> None:
    """A token at batch 1 on one thread, drawn too: over reading the weights, and along a long text."""
    demo = generate_bench.Size("mingru", RUNS["mingru"]["width"], PLAN["depth"])
    sizes = [*(generate_bench.ten_million(name) for name in blocks(model)), demo]
    groups = []
    for rows in generate_bench.run(sizes, last, rounds, progress):
        groups.append(rows)
        print(markdown(generate_bench.COLUMNS, rows), flush=True)
        write_rows(out / "generate.csv", generate_bench.COLUMNS, [row for group in groups for row in group])
    leave(out / "generate.png", groups, 1)


@app.command()
def translate(
    model: Annotated[
        str, typer.Option(metavar="A,B", help="Blocks (see recurra models), classic.")
    ] = ",".join(translate_bench.MODELS),
    width: Annotated[int, typer.Option(min=8, help="Of the first; the others have its parameters.")] = 256,
    repeats: Annotated[int, typer.Option(min=1, help="Repeats of each contender; slow ones get fewer.")] = 21,
    threads: Threads = CORES,
    out: Out = Path("results"),
) -> None:
    """Encoders and decoders of equal parameters: sentences a second, and tokens of training a second."""
    try:
        configs = translate_bench.equal(model.split(","), width)
    except ValueError as e:
        raise typer.BadParameter(str(e)) from e
    groups = []
    for rows in translate_bench.run(configs, repeats, threads, progress):
        groups.append(rows)
        print(markdown(translate_bench.COLUMNS, rows), flush=True)
        write_rows(out / "translate.csv", translate_bench.COLUMNS, [row for group in groups for row in group])
    write_record(out / "translate.json", record(threads))


@app.command()
def accelerate(
    model: Annotated[str, typer.Option(metavar="A,B", help="Of mamba, rwkv, xlstm.")] = ",".join(
        accelerate_bench.FAMILIES
    ),
    width: Annotated[int, typer.Option(min=128, help="A multiple of 128.")] = 256,
    depth: Annotated[int, typer.Option(min=2, help="Blocks of the model that is trained.")] = 4,
    batch: Annotated[int, typer.Option(min=1, help="Windows a training step.")] = 4,
    context: Annotated[int, typer.Option(min=64, help="Tokens of a window, and of a prefill.")] = 512,
    repeats: Annotated[int, typer.Option(min=1, help="Repeats of each contender; slow ones get fewer.")] = 21,
    threads: Threads = CORES,
    out: Out = Path("results"),
) -> None:
    """Models of transformers with and without recurra.accelerate: training, prefill, generation."""
    try:
        sizes = [accelerate_bench.Size(m, width, depth) for m in accelerate_bench.known(model.split(","))]
    except ValueError as e:
        raise typer.BadParameter(str(e)) from e
    groups = []
    for rows in accelerate_bench.run(sizes, batch, context, repeats, threads, progress):
        groups.append(rows)
        print(markdown(accelerate_bench.COLUMNS, rows), flush=True)
        write_rows(
            out / "accelerate.csv", accelerate_bench.COLUMNS, [row for group in groups for row in group]
        )
    write_record(out / "accelerate.json", accelerate_bench.made(threads))


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
