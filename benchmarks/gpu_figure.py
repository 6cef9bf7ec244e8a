"""The figure of arXiv 2410.01201 on a GPU: one layer, forward and backward, beside each "GRU" and "LSTM"."""

import time
from collections.abc import Callable, Iterator
from itertools import product
from typing import Any

import torch
from gpu_timing import CUDA, DEVICE, Row, allocated, attempt, bench, graphed, peak_mib
from torch import nn

from recurra.bench import baselines
from recurra.bench.baselines import DTYPES

LAYERS: dict[str, Callable[[int], nn.Module]] = {
    name: build
    for name, build in {**baselines.ours(), **baselines.traditional(baselines.CUDNN)}.items()
    if not name.endswith(baselines.COMPILED_CELL)
}
LOOP_TIME, COMPILED_TIME = 4096, 32
LOOP_GRAPH, LIBRARY_GRAPH = 512, 4096  # a graph has nodes for every step
PATIENCE = 2.5  # seconds for one call
COMPILING = 40.0  # seconds for all compiled loops together


def skipped(name: str, steps: int, graph: bool, last_ms: float, compiling: float) -> str:
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
    return f"about {last_ms / 1e3:.0f} s a call expected" if last_ms > 1e3 * PATIENCE else ""


def measure(name: str, shape: tuple[int, int, int], dtype: torch.dtype, graph: bool) -> Row:
    """Time and peak memory of one step: input, output, parameters, gradients; not what was there before."""
    held = allocated()
    torch.manual_seed(0)
    x = torch.randn(shape, device=DEVICE, dtype=dtype, requires_grad=True)
    dy, layer = torch.randn(shape, device=DEVICE, dtype=dtype), LAYERS[name](shape[-1]).to(DEVICE, dtype)
    start, step = time.perf_counter(), baselines.training_step(layer, x, dy)
    step()
    first, peak = time.perf_counter() - start, peak_mib(step, held)
    row = bench(graphed(step) if graph else step, 0.15)
    return {**row, "peak_mib": peak, "first_call_s": first}


def times(toy: bool) -> tuple[int, ...]:
    return (4, 8) if toy else (32, 512, 4096, 16384, 65536)


def run(toy: bool) -> Iterator[Row]:
    """Every layer at every T, with and without CUDA graphs."""
    batch, compiling = 2 if toy else 64, 0.0
    last: dict[Any, tuple[int, float]] = {}
    for width, dtype, steps in product((8,) if toy else (64, 256), ("fp32", "bf16"), times(toy)):
        for name, graph in product(LAYERS, (False, True)):
            before, ms = last.get((name, width, dtype, graph), (steps, 0.0))
            why = skipped(name, steps, graph, ms * steps / before, compiling)
            shape = (batch, steps, width)
            row = {"skipped": why} if why else attempt(measure, name, shape, DTYPES[dtype], graph)
            if "median_ms" in row:
                last[name, width, dtype, graph] = (steps, row["median_ms"])
            compiling += row.get("first_call_s", 0.0) if "compiled" in name else 0.0
            place = dict(zip(baselines.PLACE, (name, *shape, dtype, graph), strict=True))
            yield {**place, **row}
