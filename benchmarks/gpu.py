"""What recurra does on a GPU: right, how near to the card's memory, and the figure of arXiv 2410.01201.

    python benchmarks/gpu.py --all                 # within 9 minutes; JSON and CSV into results/
    python benchmarks/gpu.py --scan --out /tmp     # parts: --correctness --bandwidth --scan --figure
    python benchmarks/gpu.py --all --toy           # to its end in seconds, on a CPU too: no numbers

    TRITON_INTERPRET=1 python benchmarks/gpu.py --correctness --toy   # Triton's own, on a CPU

Needs this package, torch >= 2.10 and Triton >= 3.6, no network. torch's defaults for TF32 are left as they
are and written down: cuDNN may use it, matrix products do not. torch (2.11)
warns that it compacts the weights of a cuDNN layer at every call where it did not flatten them, and its list
of cuDNN's dtypes has no bf16: how much that costs the bf16 rows is not known.
"""

import argparse
import csv
import gc
import json
import math
import os
import random
import statistics
import sys
import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import datetime, timezone
from functools import cache, partial
from importlib.metadata import version
from importlib.util import find_spec
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

import gpu_memories as memories
import torch
from torch import Tensor, nn

import recurra
from recurra import ops
from recurra.bench import baselines, scan
from recurra.bench.baselines import DTYPES
from recurra.ops import gated, kernels, native
from recurra.ops.causal_conv import conv_open
from recurra.ops.linear import linear_loop, linear_parallel
from recurra.ops.selective import selective_open
from recurra.ops.softmax import softmax_open
from recurra.state import ConvState, LinearState, SelectiveState, SoftmaxState

Row = dict[str, Any]
CUDA = torch.cuda.is_available()
DEVICE = "cuda" if CUDA else "cpu"
STOP = 8 * 60.0  # seconds after which nothing more is begun
BEGUN = time.perf_counter()
warnings.filterwarnings("ignore", message="recurra runs without its native kernels")

# ----------------------------------------------------------------------------------------------
# Timing.


def clock(f: Callable[[], Any]) -> float:
    """Milliseconds of one call."""
    if not CUDA:
        start = time.perf_counter()
        f()
        return 1e3 * (time.perf_counter() - start)
    first, last = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    first.record()
    f()
    last.record()
    torch.cuda.synchronize()
    return float(first.elapsed_time(last))


def bench(f: Callable[[], Any], seconds: float = 0.25, flush: Tensor | None = None) -> Row:
    """Median and quartiles in ms over about `seconds`; `flush` is overwritten before each call, so that
    nothing of the last one is left in a cache."""
    f()
    times = [clock(f)]
    repeats = max(3, min(100, int(1e3 * seconds / max(times[0], 1e-3))))
    while len(times) < repeats:
        if flush is not None:
            flush.zero_()
        times.append(clock(f))
    low, median, high = statistics.quantiles(times, n=4)
    return {"repeats": repeats, "median_ms": median, "q1_ms": low, "q3_ms": high}


@cache
def side_stream() -> torch.cuda.Stream:
    """One for all: matrix products keep a workspace for every stream they ever ran on."""
    return torch.cuda.Stream()


def graphed(f: Callable[[], Any]) -> Callable[[], Any]:
    """The same work as one CUDA graph."""
    side = side_stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(2):
            f()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, stream=side):
        f()
    return graph.replay


def release() -> None:
    """Give cached memory back: a graph's own pool finds room only then."""
    gc.collect()
    if CUDA:
        torch.cuda.empty_cache()


def said(e: Exception) -> str:
    """An error in a line; Triton's begin with source code and end with what is wrong."""
    text = f"{type(e).__name__}: {' '.join(str(e).split())}"
    return text if len(text) <= 240 else f"{text[:120]} ... {text[-115:]}"


def late() -> str:
    """Why nothing more is begun, empty as long as something is."""
    return f"not begun within {STOP:.0f} s" if time.perf_counter() - BEGUN > STOP else ""


# ----------------------------------------------------------------------------------------------
# Correctness: every equation, dtype, mask and direction, one chunk of time and several, against fp64.

# Of softmax, the gradient of a lone bonus is one sum of differences, and may lose more in any form.
TOLERANCE = {"fp32": 64.0, "bf16": 4.0, "fp16": 4.0}  # relative RMS error in eps of the dtype
CHECKING = 200.0  # seconds for all cases together: how many that leaves is said


def correctness_cases(toy: bool) -> list[tuple[Any, ...]]:
    shapes = [(2, 33, 6)] if toy else [(3, 300, 40), (1, 4100, 64)]
    masks = ((False, False), (True, False), (True, True))  # (masked, reverse)
    cases = list(product(["linear", *gated.FUSIONS, *EQUATIONS], shapes, DTYPES, masks))
    cases += product(memories.NAMES, memories.shapes(toy), DTYPES, masks)
    return [case for case in cases if case[0] not in FORWARD_ALONE or not case[3][1]]


def correctness(case: tuple[Any, ...]) -> Row:
    """One row of the table; what does not compile or run is a row too."""
    gate, (batch, steps, width), dtype, (masked, reverse) = case
    place = {
        "gate": gate,
        "batch": batch,
        "time": steps,
        "width": width,
        "dtype": dtype,
        "masked": masked,
        "reverse": reverse,
    }
    try:
        worst, error = worst_eps(case), ""
    except Exception as e:
        worst, error = math.inf, said(e)
    return {**place, "worst_eps": round(worst, 3), "right": worst <= TOLERANCE[dtype], "error": error}


def worst_eps(case: tuple[Any, ...]) -> float:
    """The worst error of outputs, final state and all gradients, in eps of the dtype."""
    gate, (batch, steps, _), dtype, (masked, reverse) = case
    draw = torch.Generator(DEVICE).manual_seed(len(gate) + steps)
    normal = lambda *shape: torch.randn(*shape, generator=draw, device=DEVICE)  # noqa: E731
    leaves, cotangents = drawn(gate, case[1], DTYPES[dtype], normal)
    reset = torch.rand(batch, steps, generator=draw, device=DEVICE) < 0.02 if masked else None
    lengths = torch.randint(0, steps + 1, (batch,), generator=draw, device=DEVICE) if masked else None
    masks = (reset, lengths, reverse)
    forms = EQUATIONS.get(gate, Equation(partial(public, gate), partial(truth, gate), drawn_gates))
    if gate in memories.NAMES:
        forms = forms._replace(public=partial(memories.public, gate), truth=partial(memories.truth, gate))
    with interpreted():
        got = gradients(forms.public, leaves, masks, cotangents)
    want = gradients(forms.truth, [x.double() for x in leaves], masks, cotangents)
    return max(rms(g, w) / torch.finfo(DTYPES[dtype]).eps for g, w in zip(got, want, strict=True))


def drawn(
    gate: str, shape: tuple[int, int, int], dtype: torch.dtype, normal: Callable[..., Tensor]
) -> tuple[list[Tensor], tuple[Tensor, ...]]:
    """Inputs and initial state, and the cotangents of what comes out."""
    if gate in memories.NAMES:
        return memories.drawn(gate, shape, dtype, normal)
    draw = EQUATIONS[gate].draw if gate in EQUATIONS else partial(drawn_gates, gate)
    xs, state = draw(normal, *shape)
    return [*(x.to(dtype) for x in xs), state], (normal(*shape).to(dtype), normal(*state.shape))


def drawn_gates(
    gate: str, normal: Callable[..., Tensor], batch: int, steps: int, width: int
) -> tuple[list[Tensor], Tensor]:
    """The inputs of a gate and its initial state."""
    parts = [1, 1] if gate == "linear" else [gated.FUSIONS[gate].parts]
    xs = [2 * normal(batch, steps, part * width) for part in parts]
    return [xs[0].sigmoid(), xs[1]] if gate == "linear" else xs, normal(batch, width)


def drawn_conv(
    normal: Callable[..., Tensor], batch: int, steps: int, width: int
) -> tuple[list[Tensor], Tensor]:
    return [normal(batch, steps, width), normal(width, 4), normal(width)], normal(batch, 3, width)


def public_conv(*inputs: Tensor, reset: Tensor | None, lengths: Tensor | None, reverse: bool) -> Any:
    x, weight, bias, state = inputs
    y, state_n = ops.causal_conv(x, weight, bias, ConvState(state), reset, lengths)
    return y, state_n.x


def true_conv(*inputs: Tensor, reset: Tensor | None, lengths: Tensor | None, reverse: bool) -> Any:
    return conv_open(*inputs, reset=reset, lengths=lengths)


def drawn_selective(
    normal: Callable[..., Tensor], batch: int, steps: int, width: int
) -> tuple[list[Tensor], Tensor]:
    rows = [normal(batch, steps, size) for size in (width, width, 16, 16, width)]
    return [*rows, -normal(width, 16).exp(), normal(width), normal(width)], normal(batch, 16, width)


def public_selective(*inputs: Tensor, reset: Tensor | None, lengths: Tensor | None, reverse: bool) -> Any:
    x, delta, B, C, z, A, D, bias, h_0 = inputs
    y, state = ops.selective(x, delta, A, B, C, D, bias, z, SelectiveState(h_0), reset, lengths)
    return y, state.h


def true_selective(*inputs: Tensor, reset: Tensor | None, lengths: Tensor | None, reverse: bool) -> Any:
    A, D, bias, h_0 = inputs[5:]
    return selective_open(inputs[:5], (A.t(), D, bias), h_0, (reset, lengths))


def drawn_softmax(
    groups: tuple[int, ...], normal: Callable[..., Tensor], batch: int, steps: int, width: int
) -> tuple[list[Tensor], Tensor]:
    """As many channels a head as divide the width; the packed state is one that has read something."""
    heads = width // next(size for size in groups if width % size == 0)
    xs = [3 * normal(batch, steps, heads), normal(batch, steps, width), normal(heads).abs(), normal(heads)]
    return xs, torch.cat([normal(batch, heads), normal(batch, width), normal(batch, heads).exp()], -1)


def public_softmax(*inputs: Tensor, reset: Tensor | None, lengths: Tensor | None, reverse: bool) -> Any:
    scores, values, decay, bonus, state = inputs
    heads, width = scores.shape[-1], values.shape[-1]
    first = SoftmaxState(*state.split([heads, width, heads], -1))
    how: dict[str, Any] = {"decay": decay, "bonus": bonus, "reverse": reverse}
    y, last = ops.softmax(scores, values, first, reset, lengths, **how)
    return y, torch.cat(last, -1)


class Equation(NamedTuple):
    """The op as one calls it, its plain form for fp64, and what is drawn for it: inputs and initial state."""

    public: Callable[..., Any]
    truth: Callable[..., Any]
    draw: Callable[..., tuple[list[Tensor], Tensor]]


EQUATIONS = {
    "causal_conv": Equation(public_conv, true_conv, drawn_conv),
    "selective": Equation(public_selective, true_selective, drawn_selective),
    "softmax": Equation(public_softmax, softmax_open, partial(drawn_softmax, (1,))),
    "softmax of heads": Equation(public_softmax, softmax_open, partial(drawn_softmax, (3, 5, 8))),
}
FORWARD_ALONE = ("causal_conv", "selective", *memories.OUTERS)


@contextmanager
def interpreted() -> Iterator[None]:
    """With TRITON_INTERPRET=1 on a CPU, the Triton kernels in their interpreter for the C++ ones."""
    if CUDA or os.environ.get("TRITON_INTERPRET") != "1":
        yield
        return
    names: dict[str, Any] = {name: getattr(kernels, name) for name in kernels.FILES}
    with mock.patch.multiple(native, takes=lambda *xs: xs[0].dtype in kernels.DTYPES, **names):
        yield


def public(
    gate: str, *inputs: Tensor, reset: Tensor | None, lengths: Tensor | None, reverse: bool
) -> tuple[Tensor, Tensor]:
    """The recurrence as one calls it."""
    *xs, h_0 = inputs
    cell, _, candidate = gate.rpartition("_")
    how: dict[str, Any] = {"candidate": candidate} if cell else {}
    if cell.startswith("minlstm"):
        how["normalized"] = cell == "minlstm"
    op = {"": ops.linear, "mingru": ops.mingru}.get(cell, ops.minlstm)
    y, state = op(*xs, LinearState(h_0), reset, lengths, reverse=reverse, **how)
    return y, state.h


def truth(
    gate: str, *inputs: Tensor, reset: Tensor | None, lengths: Tensor | None, reverse: bool
) -> tuple[Tensor, Tensor]:
    """The recurrence in plain torch, in the dtype of its inputs: step by step, or in parallel if long."""
    *xs, h_0 = inputs
    a, b = xs if gate == "linear" else gated.FUSIONS[gate].gates(*xs)
    form = linear_loop if b.shape[1] < 1000 else linear_parallel
    return form(a, b, h_0, reset, lengths, reverse)


def gradients(
    f: Callable[..., Any], leaves: list[Tensor], masks: tuple[Any, ...], cotangents: tuple[Tensor, ...]
) -> list[Tensor]:
    leaves = [x.detach().requires_grad_() for x in leaves]
    reset, lengths, reverse = masks
    out = f(*leaves, reset=reset, lengths=lengths, reverse=reverse)
    dy = tuple(d.to(y.dtype) for d, y in zip(cotangents, out, strict=True))
    return [*out, *torch.autograd.grad(out, leaves, dy)]


def rms(got: Tensor, want: Tensor) -> float:
    got, want = got.detach().double(), want.detach()
    error = float((got - want).norm() / want.norm().clamp(min=1e-30))
    return float("inf") if math.isnan(error) else error


def run_correctness(toy: bool) -> Iterator[Row]:
    """In several processes: nearly all of the time is the compilation of each case's kernels."""
    cases = correctness_cases(toy)
    if toy:
        yield from map(correctness, cases)
        return
    random.Random(0).shuffle(cases)  # what there is no time for is of every kind
    with torch.multiprocessing.get_context("spawn").Pool(min(16, os.cpu_count() or 1)) as pool:
        yield from within(CHECKING, pool.imap_unordered(correctness, cases))


def within(seconds: float, results: Any) -> Iterator[Row]:
    """Results of a pool for so long."""
    end = time.perf_counter() + seconds
    with suppress(StopIteration, torch.multiprocessing.TimeoutError):
        while True:
            yield results.next(max(0.0, end - time.perf_counter()))


# ----------------------------------------------------------------------------------------------
# What the card gives, and how much of it the scan takes.


def run_bandwidth(toy: bool) -> Iterator[Row]:
    """Bytes read and written by a copy of 1 GB; operations of a square matrix product on random numbers."""
    x = torch.randn(2**12 if toy else 2**28, device=DEVICE)
    y = torch.empty_like(x)
    row = bench(lambda: y.copy_(x))
    yield {"what": "copy 1 GiB", "dtype": "fp32", **row, "gb_per_s": 8 * x.numel() / row["median_ms"] / 1e6}
    x = y = x[:1]
    for dtype in ("fp32", "bf16"):
        n = 64 if toy else 8192
        a, b = (torch.randn(n, n, device=DEVICE, dtype=DTYPES[dtype]) for _ in range(2))
        row = bench(lambda a=a, b=b: a @ b)  # type: ignore[misc]
        yield {
            "what": f"product of {n} by {n}",
            "dtype": dtype,
            **row,
            "tflop_per_s": 2 * n**3 / row["median_ms"] / 1e9,
        }


def copied(rows: list[Row]) -> float:
    """GB/s of the copy."""
    return next((row["gb_per_s"] for row in rows if "gb_per_s" in row), math.nan)


def scan_shapes(toy: bool, parts: int, size: int) -> list[tuple[str, int, int, int]]:
    if toy:
        return [("toy", 2, 64, 8)]
    long = 2**30 // (64 * 256 * size * (parts + 1)) // 64 * 64
    paper = [("", 64, steps, width) for width in (64, 256) for steps in (32, 512, 4096, 65536)]
    return [("1 GiB", 64, long, 256), *paper, ("one row", 1, 65536, 256)]


def run_scan(toy: bool, copy: float) -> Iterator[Row]:
    """The fused recurrence alone: forward; forward and backward. Bytes: every input and output once."""
    flush = torch.empty(2**12 if toy else 2**28, dtype=torch.int8, device=DEVICE)
    for gate, dtype in product(scan.GATES, ("fp32", "bf16")):
        parts, size = gated.FUSIONS[gate].parts, DTYPES[dtype].itemsize
        for name, batch, steps, width in scan_shapes(toy, parts, size):
            place = {
                "gate": gate,
                "dtype": dtype,
                "shape": name,
                "batch": batch,
                "time": steps,
                "width": width,
            }
            try:
                yield from (
                    {**place, **row} for row in scans(gate, dtype, (batch, steps, width), copy, flush)
                )
            except Exception as e:
                yield {**place, "skipped": said(e)}
            release()


def scans(gate: str, dtype: str, shape: tuple[int, int, int], copy: float, flush: Tensor) -> Iterator[Row]:
    """Both kinds of work at one shape."""
    if why := late():
        yield {"skipped": why}
        return
    numbers = math.prod(shape) * DTYPES[dtype].itemsize
    for work, f, count in scan.draw(gate, shape, DTYPES[dtype], DEVICE):
        row = bench(graphed(f) if CUDA else f, 0.1, flush)
        rate = count * numbers / row["median_ms"] / 1e6
        yield {"work": work, **row, "gb_per_s": rate, "of_copy": rate / copy}


# ----------------------------------------------------------------------------------------------
# The paper's figure: one layer, forward and backward, beside each meaning of "a GRU" and "an LSTM".


LAYERS: dict[str, Callable[[int], nn.Module]] = {
    name: build
    for name, build in {**baselines.ours(), **baselines.traditional(baselines.CUDNN)}.items()
    if not name.endswith(baselines.COMPILED_CELL)
}
LOOP_TIME, COMPILED_TIME = 4096, 32
LOOP_GRAPH, LIBRARY_GRAPH = 512, 4096  # a graph has nodes for every step
PATIENCE = 2.5  # seconds for one call
COMPILING = 40.0  # seconds for all compiled loops together


def skipped(  # noqa: PLR0911 - a reason each
    name: str, steps: int, graph: bool, last_ms: float, compiling: float
) -> str:
    """Why a layer is not timed here, empty where it is."""
    looped, compiled, library = "loop over" in name, "compiled" in name, "cuDNN" in name
    if graph and not CUDA:
        return "no CUDA graphs on a CPU"
    if looped and steps > (most := LOOP_GRAPH if graph else LOOP_TIME):
        return f"a loop in Python: up to T = {most}"
    if library and graph and steps > LIBRARY_GRAPH:
        return f"a graph with nodes for every step: up to T = {LIBRARY_GRAPH}"
    if compiled and (steps > COMPILED_TIME or graph):
        return f"torch.compile unrolls the loop, for over 10 s at T = 32: up to T = {COMPILED_TIME}"
    if compiled and compiling > COMPILING:
        return f"{COMPILING:.0f} s were spent on compilation"
    if why := late():
        return why
    return f"about {last_ms / 1e3:.0f} s a call expected" if last_ms > 1e3 * PATIENCE else ""


def measure(name: str, shape: tuple[int, int, int], dtype: torch.dtype, graph: bool) -> Row:
    """Time and peak memory of one step: input, output, parameters, gradients; not what was there before."""
    release()
    held = torch.cuda.memory_allocated() if CUDA else 0
    torch.manual_seed(0)
    x = torch.randn(shape, device=DEVICE, dtype=dtype, requires_grad=True)
    dy, layer = torch.randn(shape, device=DEVICE, dtype=dtype), LAYERS[name](shape[-1]).to(DEVICE, dtype)
    start, step = time.perf_counter(), baselines.training_step(layer, x, dy)
    step()
    first = time.perf_counter() - start
    if CUDA:
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        step()
        torch.cuda.synchronize()
    peak = (torch.cuda.max_memory_allocated() - held) / 2**20 if CUDA else float("nan")
    row = bench(graphed(step) if graph else step, 0.15)
    return {**row, "peak_mib": peak, "first_call_s": first}


def attempt(name: str, shape: tuple[int, int, int], dtype: torch.dtype, graph: bool) -> Row:
    try:
        return measure(name, shape, dtype, graph)
    except Exception as e:
        return {"skipped": said(e)}


def figure_times(toy: bool) -> tuple[int, ...]:
    return (4, 8) if toy else (32, 512, 4096, 16384, 65536)


def run_figure(toy: bool) -> Iterator[Row]:
    """Every layer at every T, with and without CUDA graphs."""
    batch, compiling = 2 if toy else 64, 0.0
    last: dict[Any, tuple[int, float]] = {}
    for width, dtype, steps in product((8,) if toy else (64, 256), ("fp32", "bf16"), figure_times(toy)):
        for name, graph in product(LAYERS, (False, True)):
            before, ms = last.get((name, width, dtype, graph), (steps, 0.0))
            why = skipped(name, steps, graph, ms * steps / before, compiling)
            row = {"skipped": why} if why else attempt(name, (batch, steps, width), DTYPES[dtype], graph)
            if "median_ms" in row:
                last[name, width, dtype, graph] = (steps, row["median_ms"])
            compiling += row.get("first_call_s", 0.0) if "compiled" in name else 0.0
            place = {
                "layer": name,
                "batch": batch,
                "time": steps,
                "width": width,
                "dtype": dtype,
                "graph": graph,
            }
            yield {**place, **row}


# ----------------------------------------------------------------------------------------------
# Results.


def machine() -> Row:
    """What the numbers depend on."""
    about = {
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "command": f"python benchmarks/gpu.py {' '.join(sys.argv[1:])}",
        "device": torch.cuda.get_device_name() if CUDA else "CPU",
        "recurra": recurra.__version__,
        "torch": torch.__version__,
        "triton": version("triton") if find_spec("triton") else None,
        "cuda": torch.version.cuda,
        "cudnn": torch.backends.cudnn.version() if CUDA else None,
        "python": sys.version.split()[0],
        "native": native.level(),
        "tf32": {"cudnn": torch.backends.cudnn.allow_tf32, "matmul": torch.backends.cuda.matmul.allow_tf32},
    }
    if CUDA:
        card = torch.cuda.get_device_properties(0)
        about |= {
            "multiprocessors": card.multi_processor_count,
            "memory_gib": round(card.total_memory / 2**30, 1),
        }
    return about


def write(folder: Path, about: Row, parts: dict[str, list[Row]]) -> None:
    """One JSON file of everything, one CSV a part."""
    stem = "gpu_" + about["device"].lower().replace(" ", "_")
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{stem}.json").write_text(json.dumps({"machine": about, **parts}, indent=1) + "\n")
    for name, rows in parts.items():
        columns = list(dict.fromkeys(column for row in rows for column in row))
        with (folder / f"{stem}_{name}.csv").open("w", newline="") as f:
            writer = csv.DictWriter(f, columns, lineterminator="\n")
            writer.writeheader()
            writer.writerows(
                {k: f"{v:.5g}" if isinstance(v, float) else v for k, v in row.items()} for row in rows
            )


def table(rows: list[Row], columns: tuple[str, ...]) -> None:
    """The rows as aligned text."""
    cells = [
        [f"{r.get(c, ''):.4g}" if isinstance(r.get(c), float) else str(r.get(c, "")) for c in columns]
        for r in rows
    ]
    widths = [max(map(len, column)) for column in zip(columns, *cells, strict=True)]
    for line in (columns, *cells):
        print("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())


def report(parts: dict[str, list[Row]], unchecked: int) -> None:
    """A short table of each part."""
    if rows := parts.get("correctness"):
        right = sum(row["right"] for row in rows)
        print(f"\ncorrectness: {right} of {len(rows)} right, {unchecked} not checked; worst, in eps:")
        of_dtype = ([r for r in rows if r["dtype"] == d] for d in DTYPES)
        table([max(some, key=lambda r: r["worst_eps"]) for some in of_dtype if some], tuple(rows[0]))
        table([r for r in rows if not r["right"]], tuple(rows[0]))
    if rows := parts.get("bandwidth"):
        print("\nthe card:")
        table(rows, ("what", "dtype", "median_ms", "gb_per_s", "tflop_per_s"))
    if rows := parts.get("scan"):
        print("\nthe scan alone, of copy bandwidth:")
        table(rows, ("gate", "dtype", "shape", "batch", "time", "width", "work", "median_ms", "of_copy"))
    if rows := parts.get("figure"):
        print("\nforward and backward of one layer:")
        shown = [r for r in rows if "median_ms" in r and r["time"] in (8, 512, 4096, 65536)]
        table(shown, ("layer", "dtype", "width", "time", "graph", "median_ms", "peak_mib", "over_recurra"))


PARTS = ("correctness", "bandwidth", "scan", "figure")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    for part in (*PARTS, "all", "toy"):
        parser.add_argument(f"--{part}", action="store_true")
    parser.add_argument("--out", type=Path, default=Path("results"), help="folder of the result files")
    chosen = vars(parser.parse_args())
    if not CUDA and not chosen["toy"]:
        parser.error("no GPU here: --toy runs the script to its end, without numbers")
    parts: dict[str, list[Row]] = {}
    about, start = machine(), time.perf_counter()
    for part in PARTS:
        if not (chosen[part] or chosen["all"]) and (part != "bandwidth" or not chosen["scan"]):
            continue
        runs = {
            "correctness": lambda: run_correctness(chosen["toy"]),
            "bandwidth": lambda: run_bandwidth(chosen["toy"]),
            "scan": lambda: run_scan(chosen["toy"], copied(parts["bandwidth"])),
            "figure": lambda: run_figure(chosen["toy"]),
        }
        parts[part] = []
        try:
            parts[part].extend(runs[part]())
        except Exception as e:  # the rows up to here stay
            traceback.print_exc()
            about[f"{part}_ended"] = said(e)
        if part == "correctness":
            about["unchecked"] = len(correctness_cases(chosen["toy"])) - len(parts[part])
        if part == "figure":
            baselines.compare(parts[part])
        about["seconds"] = round(time.perf_counter() - start)
        print(f"{part}: done after {about['seconds']} s", flush=True)
        write(chosen["out"], about, parts)
    report(parts, about.get("unchecked", 0))


if __name__ == "__main__":
    main()
