"""Forward and backward of recurra's layers beside torch.nn, a cell loop, peers and their own products."""

from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

from recurra.bench.baselines import MINGRU, MINLSTM
from recurra.bench.contenders import CONTENDERS, GEMMS, TOUCHED, absent, begin, draw_input
from recurra.bench.memory import peak
from recurra.bench.report import Row
from recurra.bench.timing import PATIENCE, Timing, interleave

Shape = tuple[int, int, int]

SHAPES: tuple[Shape, ...] = ((16, 512, 256), (1, 4096, 256), (64, 512, 256), (8, 4096, 128), (64, 512, 64))
LONG: tuple[Shape, ...] = tuple((1, 64 * 4**k, 256) for k in range(6))
LOOP_TIME, LOOP_SIZE = 512, 2**21
COPY, COPY_BYTES = "copy 128 MiB", 2 * 2**27
MEASURED_MEMORY = (MINGRU, MINLSTM, "nn.GRU", "nn.LSTM")
SHAPE_COLUMNS = ("batch", "time", "width")
PRINTED = (
    *("contender", "repeats", "median_ms", "q1_ms", "q3_ms"),
    *("over_gemms", "over_recurra", "bound_ms", "peak_mib", "skipped"),
)
COLUMNS = (*SHAPE_COLUMNS, *PRINTED)


def skipped(name: str, shape: Shape, last: tuple[Shape, float] | None) -> str:
    """Why a contender does not run at a shape, empty where it does; `last` is its last shape and median."""
    batch, time, width = shape
    if name == "GRUCell loop" and (time > LOOP_TIME or batch * time * width > LOOP_SIZE):
        return f"a Python loop, timed up to T = {LOOP_TIME} and B T D = {LOOP_SIZE}"
    if last and (last[0][0], last[0][2]) == (batch, width):
        seconds = last[1] / 1e3 * time / last[0][1]
        if seconds > PATIENCE:
            return f"about {seconds:.0f} s a run expected"
    return absent(name)


def copier() -> Callable[[], Tensor]:
    """A copy too large for any cache: what memory gives, by the same library."""
    source = torch.ones(COPY_BYTES // 2 // 4)
    target = torch.empty_like(source)
    return lambda: target.copy_(source)


def ratios(name: str, shape: Shape, timings: dict[str, Timing]) -> Row:
    """Time over its GEMMs, over recurra's layer, and the time of the bytes that the recurrence must touch."""
    if name == COPY:
        return {}
    ms, rival = timings[name].median, CONTENDERS[name].rival
    row = {"over_gemms": ms / timings[GEMMS[rival]].median, "over_recurra": ms / timings[rival].median}
    if name == rival:
        touched = 4 * TOUCHED[name] * shape[0] * shape[1] * shape[2]
        row["bound_ms"] = touched / COPY_BYTES * timings[COPY].median
    return row


def measure(
    shape: Shape, names: Sequence[str], repeats: int, threads: int, say: Callable[[str], None]
) -> dict[str, Row]:
    """Rows of these contenders at one shape; the copy comes along."""
    x = draw_input(shape)
    runs: dict[str, Callable[[], object]] = {name: begin(name, x) for name in names}
    timings = interleave({**runs, COPY: copier()}, repeats, say=lambda text: say(f"{shape} {text}"))
    rows: dict[str, Row] = {}
    for name, t in timings.items():
        rows[name] = t.columns | ratios(name, shape, timings)
        if name in MEASURED_MEMORY:
            say(f"{shape} {name}: memory")
            rows[name]["peak_mib"] = peak(name, shape, threads)
    return rows


def run(
    shapes: Sequence[Shape], repeats: int, threads: int, say: Callable[[str], None]
) -> Iterator[list[Row]]:
    """The rows of one shape after another; a contender that is skipped has a row with the reason."""
    torch.set_num_threads(threads)
    last: dict[str, tuple[Shape, float]] = {}
    for shape in shapes:
        why = {name: skipped(name, shape, last.get(name)) for name in CONTENDERS}
        rows = measure(shape, [name for name in CONTENDERS if not why[name]], repeats, threads, say)
        last |= {name: (shape, row["median_ms"]) for name, row in rows.items()}
        place = dict(zip(SHAPE_COLUMNS, shape, strict=True))
        yield [
            {**place, "contender": name, **rows.get(name, {"skipped": why.get(name)})}
            for name in (*CONTENDERS, COPY)
        ]
