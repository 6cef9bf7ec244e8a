"""The figure of arXiv 2410.01201 on a CPU: forward and backward of one layer, time and memory against T.

A row for every layer at every T. What is expected to take longer than the limit, or more memory than there
is, is not run, and its row says so. torch.compile unrolls a loop over time, which takes it a second or more a
step: the whole loop is compiled up to `UNROLLED` steps, and its cell alone up to `LOOPED`.
"""

import sys
from collections.abc import Callable, Iterator, Sequence
from itertools import product
from time import perf_counter
from typing import NamedTuple

import torch
from torch import Tensor, nn

from recurra.bench.baselines import (
    COMPILED_CELL,
    COMPILED_LOOP,
    DTYPES,
    LOOP,
    ON_CPU,
    Build,
    compare,
    ours,
    traditional,
    training_step,
)
from recurra.bench.memory import available, fresh, risen
from recurra.bench.report import Row
from recurra.bench.timing import interleave

Say = Callable[[str], None]

BATCH, WIDTHS = 64, (64, 256)
TIMES = (32, 128, 512, 2048, 4096, 16384, 65536)
UNROLLED, LOOPED = 32, 4096
LAYERS: dict[str, Build] = {**ours(), **traditional(ON_CPU)}


class Place(NamedTuple):
    """Where a layer is timed."""

    batch: int
    time: int
    width: int
    dtype: str

    def row(self, layer: str) -> Row:
        """What tells a row from all others."""
        return {"layer": layer, **self._asdict(), "graph": False}

    @property
    def mib(self) -> float:
        """Of the input, and of the gradient of the output."""
        return self.batch * self.time * self.width * DTYPES[self.dtype].itemsize / 2**20


def draw(place: Place) -> tuple[Tensor, Tensor]:
    """Input and gradient of the output, [B, T, D]."""
    x, dy = torch.randn(2, place.batch, place.time, place.width).to(DTYPES[place.dtype])
    return x.requires_grad_(), dy


def build(layer: str, place: Place) -> nn.Module:
    """That layer, drawn anew."""
    torch.manual_seed(0)
    return LAYERS[layer](place.width).to(DTYPES[place.dtype])


def skipped(layer: str, place: Place, last: Row | None, limit: float, mib: float) -> str:
    """Why a layer is not run, empty where it is; `last` is its row of the most steps, in steps of so few."""
    if layer.endswith(COMPILED_LOOP) and place.time > UNROLLED:
        return f"torch.compile unrolls the loop: up to T = {UNROLLED}; see its compiled cell"
    if (LOOP in layer or COMPILED_CELL in layer) and place.time > LOOPED:
        return f"a loop in Python: up to T = {LOOPED}"
    longer = place.time / last["time"] if last else 0.0
    seconds = last["median_ms"] / 1e3 * longer if last else 0.0
    if seconds > limit:
        return f"about {seconds:.0f} s a call expected, at most {limit:.0f} s allowed"
    needed = max(2 * place.mib, (last["peak_mib"] or 0.0) * longer if last else 0.0)
    if needed > mib:
        return f"about {needed / 1024:.0f} GiB expected, {mib / 1024:.0f} GiB allowed"
    return ""


def first_call(layer: str, place: Place, given: tuple[Tensor, Tensor]) -> tuple[Callable[[], None], Row]:
    """A step that was called once, and how long that took: with compilation, where there is any."""
    start, step = perf_counter(), training_step(build(layer, place), *given)
    step()
    return step, {"first_call_s": perf_counter() - start}


def time_all(layers: Sequence[str], place: Place, repeats: int, say: Say) -> dict[str, Row]:
    """Times of these layers, in turns; one that can't run has the reason."""
    given, steps, found = draw(place), dict[str, Callable[[], object]](), dict[str, Row]()
    for layer in layers:
        say(f"{place} {layer}: first call")
        try:
            steps[layer], found[layer] = first_call(layer, place, given)
        except RuntimeError as e:  # no C++ compiler, most likely
            found[layer] = {"skipped": f"{type(e).__name__}: {str(e).strip().splitlines()[0][:120]}"}
    for layer, t in interleave(steps, repeats, say=lambda text: say(f"{place} {text}")).items():
        found[layer] |= t.columns
    return found


def at(place: Place, layers: Sequence[str], repeats: int, threads: int, say: Say) -> dict[str, Row]:
    """Time and memory of these layers."""
    found = time_all(layers, place, repeats, say) if layers else {}
    for layer, row in found.items():
        if "median_ms" in row:
            say(f"{place} {layer}: memory")
            row["peak_mib"] = peak(layer, place, threads)
    return found


def run(
    dtypes: Sequence[str], longest: int, repeats: int, limit: float, threads: int, say: Say
) -> Iterator[list[Row]]:
    """The rows of one T after the other, for each width and dtype."""
    torch.set_num_threads(threads)
    free = available()
    mib = float("inf") if free is None else free
    for width, dtype in product(WIDTHS, dtypes):
        torch.compiler.reset()  # a function is compiled for few shapes only
        last: dict[str, Row] = {}
        for place in (Place(BATCH, time, width, dtype) for time in TIMES if time <= longest):
            why = {name: skipped(name, place, last.get(name), limit, mib) for name in LAYERS}
            found = at(place, [name for name in LAYERS if not why[name]], repeats, threads, say)
            rows = [{**place.row(name), **found.get(name, {"skipped": why[name]})} for name in LAYERS]
            compare(rows)
            last |= {row["layer"]: row for row in rows if "median_ms" in row}
            yield rows


def peak_here(layer: str, place: Place) -> float:
    """MiB that a step takes in this process, with input and gradient of the output, as on a GPU."""
    made, short = build(layer, place), place._replace(time=2)
    training_step(made, *draw(place if layer.endswith(COMPILED_LOOP) else short))()
    return 2 * place.mib + risen(training_step(made, *draw(place)))


def peak(layer: str, place: Place, threads: int) -> float | None:
    """MiB that a step takes in a fresh process."""
    return fresh(__name__, [layer, *place, threads], f"{layer} at {place}")


def _main(words: Sequence[str]) -> None:
    layer, batch, time, width, dtype, threads = words
    torch.set_num_threads(int(threads))
    print(peak_here(layer, Place(int(batch), int(time), int(width), dtype)))


if __name__ == "__main__":
    _main(sys.argv[1:])
