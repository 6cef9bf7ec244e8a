"""The blocks of the table side by side: over their own products, and against the number of steps.

One block each, at equal width, and at equal parameters: every width such that the block has as many as
minGRU's. The Transformer is the reference. A step is one token after `TIME` others, on one thread. Times
against T are of forward and backward at batch 1 and equal parameters.
"""

import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import nn

from recurra.bench.contenders import Pass, Project, draw_input
from recurra.bench.memory import fresh, risen
from recurra.bench.products import LINEAR, PROJECT, Products
from recurra.bench.report import Row
from recurra.bench.step import BLOCK, block
from recurra.bench.timing import PATIENCE, Timing, interleave
from recurra.bench.widths import nearest
from recurra.blocks.stack import make
from recurra.blocks.table import BLOCKS

EQUAL, REFERENCE = "mingru", "transformer"
BATCH, TIME, SHORTEST = 4, 512, 256
WIDTHS = range(8, 8192, 8)
# What may not be expected to take more than this is not run: milliseconds of a run, MiB.
BOUNDS = {"median_ms": PATIENCE * 1e3, "peak_mib": 8192.0}
FORWARD, BOTH, STEP = "forward", "forward + backward", "step"
OWN = "block"
PLACE = ("table", "part", "model", "width", "parameters", "batch", "time")
TIMES = ("repeats", "median_ms", "q1_ms", "q3_ms")
SIDE_PRINTED = (*PLACE, *TIMES, "over_linear", "over_project", "over_transformer")
LENGTH_PRINTED = (*PLACE[2:5], "time", *TIMES, "us_per_token", "over_transformer", "peak_mib", "not_run")
# Of the three groups of rows.
PRINTED = (SIDE_PRINTED, SIDE_PRINTED, LENGTH_PRINTED)
COLUMNS = (*SIDE_PRINTED, "us_per_token", "peak_mib", "not_run")

Say = Callable[[str], None]
Calls = dict[str, Callable[[], object]]


class Size(NamedTuple):
    """One block: its name in the table and its width."""

    model: str
    width: int

    def build(self) -> Any:
        """The block, drawn anew."""
        torch.manual_seed(0)
        return make(self.model, self.width, 1)[0]

    @property
    def parameters(self) -> int:
        """How many numbers it learns."""
        with torch.device("meta"):
            return sum(p.numel() for p in self.build().parameters())


def alike(model: str, parameters: int) -> Size:
    """The block with the width of `WIDTHS` whose parameters are nearest to so many."""
    return Size(model, nearest(WIDTHS, lambda width: Size(model, width).parameters, parameters))


def tables(models: Sequence[str], width: int) -> dict[str, list[Size]]:
    """The blocks at equal width and at equal parameters."""
    parameters = Size(EQUAL, width).parameters
    return {
        "equal width": [Size(model, width) for model in models],
        "equal parameters": [alike(model, parameters) for model in models],
    }


def stepping(size: Size) -> Callable[[], object]:
    """One token after `TIME` others, the same again and again."""
    made = size.build()
    with torch.no_grad():
        _, state = made(draw_input((1, TIME, size.width)))
    x = torch.randn(1, size.width)
    return torch.no_grad()(lambda: made.step(x, state))


def calls(size: Size, part: str) -> Calls:
    """The block and, twice, its products."""
    made, tokens = size.build(), 1 if part == STEP else BATCH * TIME
    linear, project = (Products(made, tokens, kind) for kind in (nn.Linear, Project))
    if part == STEP:
        return {OWN: block(stepping(size)), LINEAR: block(linear.forward), PROJECT: block(project.forward)}
    run = Pass(made, draw_input((BATCH, TIME, size.width)))
    if part == FORWARD:
        return {OWN: run.forward, LINEAR: linear.forward, PROJECT: project.forward}
    return {OWN: run, LINEAR: linear, PROJECT: project}


def place(table: str, part: str, size: Size, batch: int, time: int) -> Row:
    """What tells a row from all others."""
    return dict(zip(PLACE, (table, part, *size, size.parameters, batch, time), strict=True))


def times(t: Timing, calls: int = 1) -> Row:
    """Median and quartiles of one of so many calls in a row."""
    found = (t.repeats, t.median / calls, t.low / calls, t.high / calls)
    return dict(zip(TIMES, found, strict=True))


def ratios(own: Timing, others: dict[str, Timing | None]) -> Row:
    """Over all that is there to be compared with."""
    return {name: own.median / other.median for name, other in others.items() if other}


def side_by_side(table: str, sizes: Sequence[Size], part: str, repeats: int, say: Say) -> list[Row]:
    """Rows of one part of all blocks, in turns with their products."""
    runs = {f"{size.model}, {name}": call for size in sizes for name, call in calls(size, part).items()}
    timings = interleave(runs, repeats, say=lambda text: say(f"{table}, {part}: {text}"))
    batch, time, count = (1, 1, BLOCK) if part == STEP else (BATCH, TIME, 1)
    rows = []
    for size in sizes:
        own = timings[f"{size.model}, {OWN}"]
        others = {
            "over_linear": timings[f"{size.model}, {LINEAR}"],
            "over_project": timings[f"{size.model}, {PROJECT}"],
            "over_transformer": timings.get(f"{REFERENCE}, {OWN}"),
        }
        rows.append({**place(table, part, size, batch, time), **times(own, count), **ratios(own, others)})
    return rows


def refused(found: Sequence[Row]) -> str:
    """Why a block is not run at twice the steps of its last row, empty where it is.

    What the last doubling multiplied by, the next one will, and by two at least.
    """
    if found and "not_run" in found[-1]:
        return str(found[-1]["not_run"])
    for column, bound in BOUNDS.items():
        seen = [row[column] for row in found[-2:] if row.get(column)]
        expected = seen[-1] * max(2.0, seen[-1] / seen[0]) if seen else 0.0
        if expected > bound:
            return f"{column} {expected:.0f} expected, at most {bound:.0f} allowed"
    return ""


def at_length(time: int, sizes: Sequence[Size], repeats: int, threads: int, say: Say) -> dict[str, Row]:
    """What the blocks take at so many steps, by their names."""
    runs: Calls = {s.model: Pass(s.build(), draw_input((1, time, s.width))) for s in sizes}
    timings = interleave(runs, repeats, say=lambda text: say(f"T = {time}, {text}"))
    rows = {}
    for size in sizes:
        t = timings[size.model]
        say(f"T = {time}, {size.model}: memory")
        reference = ratios(t, {"over_transformer": timings.get(REFERENCE)})
        rest = {"us_per_token": t.median * 1e3 / time, "peak_mib": peak(size, time, threads)}
        rows[size.model] = {**times(t), **reference, **rest}
    return rows


def lengths(sizes: Sequence[Size], longest: int, repeats: int, threads: int, say: Say) -> list[Row]:
    """Rows of each block from `SHORTEST` steps on, doubled up to `longest`."""
    found: dict[str, list[Row]] = {size.model: [] for size in sizes}
    time = SHORTEST
    while time <= longest:
        why = {name: refused(rows) for name, rows in found.items()}
        rows = at_length(time, [size for size in sizes if not why[size.model]], repeats, threads, say)
        for size in sizes:
            measured = rows.get(size.model, {"not_run": why[size.model]})
            found[size.model].append({**place("length", BOTH, size, 1, time), **measured})
        time *= 2
    return [row for rows in found.values() for row in rows]


def peak_here(size: Size, time: int) -> float:
    """MiB that one forward and backward pass takes in this process."""
    Pass(size.build(), draw_input((1, 2, size.width)))()
    return risen(Pass(size.build(), draw_input((1, time, size.width))))


def peak(size: Size, time: int, threads: int) -> float | None:
    """MiB that one forward and backward pass takes in a fresh process."""
    return fresh(__name__, [*size, time, threads], f"{size.model} at T = {time}")


def known(models: Sequence[str]) -> list[str]:
    """The same names. Raises ValueError where one is no block of the table."""
    if unknown := [name for name in models if name not in BLOCKS]:
        raise ValueError(f"model must be of {', '.join(BLOCKS)}, got {unknown[0]!r}")
    return list(models)


def run(
    models: Sequence[str], width: int, longest: int, repeats: int, threads: int, say: Say
) -> Iterator[list[Row]]:
    """Rows at equal width, at equal parameters, and against T."""
    made = tables(known(models), width)
    for table, sizes in made.items():
        rows = []
        for part in (FORWARD, BOTH, STEP):
            torch.set_num_threads(1 if part == STEP else threads)
            rows += side_by_side(table, sizes, part, repeats, say)
        yield rows
    torch.set_num_threads(threads)
    yield lengths(made["equal parameters"], longest, repeats, threads, say)


def _main(words: Sequence[str]) -> None:
    width, time, threads = map(int, words[1:])
    torch.set_num_threads(threads)
    print(peak_here(Size(words[0], width), time))


if __name__ == "__main__":
    _main(sys.argv[1:])
