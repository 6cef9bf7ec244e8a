"""What this CPU gives: bytes copied, operations in matrix products; and how much of it the recurrence takes.

Rows have the columns of `benchmarks/gpu.py`'s parts bandwidth and scan.
"""

from collections.abc import Callable, Iterator
from functools import partial

import torch
from torch import Tensor
from torch.nn.functional import linear

from recurra.bench.baselines import DTYPES
from recurra.bench.report import Row
from recurra.bench.scan import GATES, draw
from recurra.bench.timing import interleave
from recurra.ops import project
from recurra.train.memory import hold_memory

Say = Callable[[str], None]

# Numbers of a scan beyond all caches, and each tensor within what glibc can hold on to, 32 MiB.
COPIED, SIDE, SHAPE = 2**27, 2048, (32, 512, 256)
PRODUCTS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {"nn.Linear": linear, "ops.project": project}
COLUMNS = (
    *("what", "dtype", "gate", "batch", "time", "width", "work", "repeats", "median_ms", "q1_ms", "q3_ms"),
    *("gb_per_s", "tflop_per_s", "of_copy"),
)


def copy(repeats: int) -> Row:
    """Bytes read and written by a copy too large for any cache."""
    source = torch.randn(COPIED // 4)
    target = torch.empty_like(source)
    t = interleave({"copy": lambda: target.copy_(source)}, repeats)["copy"]
    what = f"copy {COPIED / 2**20:.0f} MiB"
    return {"what": what, "dtype": "fp32", **t.columns, "gb_per_s": 2 * COPIED / t.median / 1e6}


@torch.no_grad()
def products(dtype: str, repeats: int) -> Iterator[Row]:
    """Operations of a square matrix product on random numbers, by torch and by recurra."""
    x, weight = torch.randn(2, SIDE, SIDE).to(DTYPES[dtype])
    runs: dict[str, Callable[[], object]]
    runs = {name: partial(call, x, weight) for name, call in PRODUCTS.items()}
    for name, t in interleave(runs, repeats).items():
        rate = 2 * SIDE**3 / t.median / 1e9
        what = f"product of {SIDE} by {SIDE}, {name}"
        yield {"what": what, "dtype": dtype, **t.columns, "tflop_per_s": rate}


@torch.no_grad()
def scans(dtype: str, repeats: int, gb_per_s: float) -> Iterator[Row]:
    """The recurrence alone, over the bytes that it must touch and over a copy's speed."""
    for gate in GATES:
        for name, call, touched in draw(gate, SHAPE, DTYPES[dtype], "cpu"):
            t = interleave({name: call}, repeats)[name]
            size = touched * DTYPES[dtype].itemsize * SHAPE[0] * SHAPE[1] * SHAPE[2]
            rate = size / t.median / 1e6
            place = dict(zip(("batch", "time", "width"), SHAPE, strict=True))
            row = {"gate": gate, "dtype": dtype, **place, "work": name, **t.columns}
            yield {**row, "gb_per_s": rate, "of_copy": rate / gb_per_s}


def run(repeats: int, threads: int, say: Say) -> list[Row]:
    """All rows."""
    torch.set_num_threads(threads)
    hold_memory()  # else what is measured is the system, which clears each new page
    say("copying")
    rows = [copy(repeats)]
    for dtype in ("fp32", "bf16"):
        say(f"matrix products, {dtype}")
        rows += products(dtype, repeats)
        say(f"recurrences, {dtype}")
        rows += scans(dtype, repeats, rows[0]["gb_per_s"])
    return rows
