"""`recurra bench figure`, `roofline`, `position` and `report`: what the speed report is made of."""

from pathlib import Path
from typing import Annotated

import typer

from recurra.bench import figure as figure_bench
from recurra.bench import limits, speed
from recurra.bench import position as position_bench
from recurra.bench.baselines import COLUMNS, DTYPES
from recurra.bench.generate import ten_million
from recurra.bench.readme import renewed
from recurra.bench.report import markdown, progress, record, write_record, write_rows, write_text
from recurra.blocks.table import BLOCKS
from recurra.cli.bench import CORES, Out, Threads, blocks, leave

PRINTED = ("layer", "median_ms", "peak_mib", "over_recurra", "skipped")


def figure(
    dtype: Annotated[str, typer.Option(metavar="A,B", help="Of fp32, bf16.")] = "fp32",
    longest: Annotated[int, typer.Option(min=32, help="The most steps, of 32 to 65,536.")] = 65536,
    limit: Annotated[float, typer.Option(min=0, help="Seconds that a call may be expected to take.")] = 60.0,
    repeats: Annotated[int, typer.Option(min=1, help="Repeats of each contender; slow ones get fewer.")] = 21,
    threads: Threads = CORES,
    out: Out = Path("results"),
) -> None:
    """The figure of arXiv 2410.01201 on a CPU: minGRU, minLSTM and Mamba beside every GRU and LSTM."""
    if unknown := set(dtypes := dtype.split(",")) - set(DTYPES):
        raise typer.BadParameter(f"--dtype is of {', '.join(DTYPES)}, got {', '.join(sorted(unknown))}")
    groups = []
    for rows in figure_bench.run(dtypes, longest, repeats, limit, threads, progress):
        groups.append(rows)
        print("B = {batch}, T = {time}, D = {width}, {dtype}\n".format(**rows[0]))
        print(markdown(PRINTED, rows), flush=True)
        write_rows(out / "figure.csv", COLUMNS, [row for group in groups for row in group])
    leave(out / "figure.png", groups, threads)


def roofline(
    repeats: Annotated[int, typer.Option(min=1, help="Repeats of each; slow ones get fewer.")] = 21,
    threads: Threads = CORES,
    out: Out = Path("results"),
) -> None:
    """Copy bandwidth and matrix rate of this CPU, and how near the recurrence alone comes to a copy."""
    rows = limits.run(repeats, threads, progress)
    print(markdown(limits.COLUMNS, rows))
    write_rows(out / "roofline.csv", limits.COLUMNS, rows)
    write_record(out / "roofline.json", record(threads))


def position(
    model: Annotated[str, typer.Option(metavar="A,B", help="Blocks of ten million parameters.")] = ",".join(
        BLOCKS
    ),
    last: Annotated[int, typer.Option(min=10, help="The last position.")] = 100_000,
    out: Out = Path("results"),
) -> None:
    """A token's time and memory against its position in a long text, at batch 1 on one thread."""
    groups = []
    for rows in position_bench.run([ten_million(name) for name in blocks(model)], last, progress):
        groups.append(rows)
        print(markdown(position_bench.COLUMNS, rows), flush=True)
        write_rows(out / "position.csv", position_bench.COLUMNS, [row for group in groups for row in group])
    leave(out / "position.png", groups, 1)


def report(
    results: Annotated[Path, typer.Option(help="Folder of the results.")] = Path("results"),
    readme: Annotated[Path | None, typer.Option(help="A file whose measured part is made anew.")] = None,
) -> None:
    """One HTML page of all speeds in the result files, and the tables of the README."""
    if readme:
        write_text(readme, renewed(readme.read_text(encoding="utf-8"), results))
        print(readme)
    print(speed.write(results))
