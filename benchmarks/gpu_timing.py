"""How the parts of `gpu.py` take time: of a call, as a CUDA graph, and how much of it is left."""

import gc
import math
import statistics
import time
from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch import Tensor

Row = dict[str, Any]
CUDA = torch.cuda.is_available()
DEVICE = "cuda" if CUDA else "cpu"
MOST = 100  # repeats of one call
_end = math.inf


def begin(seconds: float) -> None:
    """New work may be begun for so long."""
    global _end
    _end = time.perf_counter() + seconds


def left() -> float:
    """Seconds in which something may still be begun."""
    return max(0.0, _end - time.perf_counter())


def late() -> str:
    """Why nothing more is begun, empty as long as something is."""
    return "" if left() else "no time was left for it"


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
    repeats = max(3, min(MOST, int(1e3 * seconds / max(times[0], 1e-3))))
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
    if CUDA:
        gc.collect()
        torch.cuda.empty_cache()


def allocated() -> int:
    """Bytes that tensors take on the card."""
    return torch.cuda.memory_allocated() if CUDA else 0


def peak_mib(f: Callable[[], Any], held: int) -> float:
    """MiB of a call at its peak over what was `held` before; not known on a CPU."""
    if not CUDA:
        return float("nan")
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    f()
    torch.cuda.synchronize()
    return (torch.cuda.max_memory_allocated() - held) / 2**20


def said(e: Exception) -> str:
    """An error in a line; Triton's begin with source code and end with what is wrong."""
    text = f"{type(e).__name__}: {' '.join(str(e).split())}"
    return text if len(text) <= 240 else f"{text[:120]} ... {text[-115:]}"


def attempt(measure: Callable[..., Row], *args: Any) -> Row:
    """What a measurement says, or why there is none."""
    if why := late():
        return {"skipped": why}
    try:
        return measure(*args)
    except Exception as e:
        return {"skipped": said(e)}
    finally:
        release()
