"""What the card gives, and how much of it each kernel takes: for `gpu.py --bandwidth --scan --kernels`.

The floor is a copy of just the bytes that an op must read and write: forward its inputs and its output;
backward its inputs again, the gradient of the output, and the gradients of the inputs.
"""

import math
from collections.abc import Callable, Iterator
from itertools import product
from typing import Any, NamedTuple

import gpu_memories as memories
import gpu_peers as peers
import torch
from gpu_equations import EQUATIONS, equation
from gpu_timing import CUDA, DEVICE, Row, attempt, bench, graphed
from torch import Tensor

from recurra.bench import scan
from recurra.bench.baselines import DTYPES
from recurra.bench.scan import BOTH, FORWARD
from recurra.ops import gated
from recurra.ops.cell_forms import CELLS


def run_bandwidth(toy: bool) -> Iterator[Row]:
    """Bytes read and written by a copy of 1 GB; operations of a square matrix product on random numbers."""
    x = torch.randn(2**12 if toy else 2**28, device=DEVICE)
    y = torch.empty_like(x)
    row = bench(lambda: y.copy_(x))
    yield {"what": "copy 1 GiB", "dtype": "fp32", **row, "gb_per_s": 8 * x.numel() / row["median_ms"] / 1e6}
    x = y = x[:1]
    n = 64 if toy else 8192
    for dtype in ("fp32", "bf16"):
        a, b = (torch.randn(n, n, device=DEVICE, dtype=DTYPES[dtype]) for _ in range(2))
        row = bench(lambda a=a, b=b: a @ b)  # type: ignore[misc]
        rate = 2 * n**3 / row["median_ms"] / 1e9
        yield {"what": f"product of {n} by {n}", "dtype": dtype, **row, "tflop_per_s": rate}


class Floor(NamedTuple):
    """A copy's GB/s, and what is overwritten before each call."""

    gb_per_s: float
    flush: Tensor

    def beside(self, f: Callable[[], Any], size: float) -> Row:
        """Times of a call, and its share of the copy's speed at so many bytes."""
        row = bench(f, 0.1, self.flush)
        rate = size / row["median_ms"] / 1e6
        return {**row, "gb_per_s": rate, "of_copy": rate / self.gb_per_s}


def floor(bandwidth: list[Row], toy: bool) -> Floor:
    """By the part that measured the card."""
    copied = next((row["gb_per_s"] for row in bandwidth if "gb_per_s" in row), math.nan)
    return Floor(copied, torch.empty(2**12 if toy else 2**28, dtype=torch.int8, device=DEVICE))


# ----------------------------------------------------------------------------------------------
# The recurrences of minGRU and minLSTM, at many shapes. h is read in the backward pass too.


def scan_shapes(toy: bool, parts: int, size: int) -> list[tuple[str, int, int, int]]:
    if toy:
        return [("toy", 2, 64, 8)]
    long = 2**30 // (64 * 256 * size * (parts + 1)) // 64 * 64
    paper = [("", 64, steps, width) for width in (64, 256) for steps in (32, 512, 4096, 65536)]
    return [("1 GiB", 64, long, 256), *paper, ("one row", 1, 65536, 256)]


def run_scan(toy: bool, floor: Floor) -> Iterator[Row]:
    """The fused recurrence alone: forward; forward and backward."""
    for gate, dtype in product(scan.GATES, ("fp32", "bf16")):
        shapes = scan_shapes(toy, gated.FUSIONS[gate].parts, DTYPES[dtype].itemsize)
        for (name, *shape), work in product(shapes, (FORWARD, BOTH)):
            place = {"gate": gate, "dtype": dtype, "shape": name}
            place |= dict(zip(("batch", "time", "width"), shape, strict=True))
            yield {**place, "work": work, **attempt(scanned, gate, dtype, shape, work, floor)}


def scanned(gate: str, dtype: str, shape: tuple[int, int, int], work: str, floor: Floor) -> Row:
    """One kind of work at one shape."""
    found = next(w for w in scan.draw(gate, shape, DTYPES[dtype], DEVICE) if w.name == work)
    size = found.touched * math.prod(shape) * DTYPES[dtype].itemsize
    return floor.beside(graphed(found.call) if CUDA else found.call, size)


# ----------------------------------------------------------------------------------------------
# Every kernel, and those of other houses.

OURS = "recurra"
KERNELS = ("linear", *EQUATIONS, *memories.NAMES)
CHANNELS = {"outer gated": 128}  # of a head; of others with heads 64


class Place(NamedTuple):
    """What tells a row from all others."""

    kernel: str
    by: str
    dtype: str
    shape: str
    batch: int
    time: int
    width: int
    work: str


def shapes(kernel: str, toy: bool) -> list[tuple[str, int, int, int]]:
    """Names and [B, T, D]: many rows, and as many numbers in one; a cell has one head, sLSTM four."""
    if toy:
        return [("toy", 2, 16, 8)]
    if kernel in CELLS:
        return [("many rows", 64, 1024, 256 if kernel == "slstm" else 64)]
    return [("many rows", 8, 4096, 1024), ("one row", 1, 32768, 1024)]


def places(kernel: str, by: str, toy: bool) -> Iterator[Place]:
    """Both dtypes, every shape, forward alone and with its backward."""
    for dtype, (name, *shape), work in product(("fp32", "bf16"), shapes(kernel, toy), (FORWARD, BOTH)):
        yield Place(kernel, by, dtype, name, *shape, work)


def runners() -> Iterator[tuple[str, str]]:
    """Kernels and whose they are: all of ours first, as some of the others are compiled for minutes."""
    yield from ((kernel, OURS) for kernel in KERNELS)
    yield from ((peer.kernel, name) for name, peer in peers.PEERS.items())


def draw(place: Place) -> tuple[Callable[..., Tensor], list[Tensor]]:
    """The op, and what it is called with: from no state, as other houses' kernels begin."""
    normal = lambda *shape: torch.randn(*shape, device=DEVICE)  # noqa: E731
    kernel, dtype, shape = place.kernel, DTYPES[place.dtype], (place.batch, place.time, place.width)
    channels = min(CHANNELS.get(kernel, 64), place.width)
    head = (place.batch, place.time, channels)
    if kernel in memories.OUTERS:
        leaves, _ = memories.outer_drawn(kernel, head, dtype, normal, place.width // channels, channels)
    elif kernel in CELLS:
        leaves, _ = memories.cell_drawn(kernel, head, dtype, normal, place.width // channels)
    else:
        leaves, _ = equation(kernel).draw(shape, dtype, normal)
    for state in leaves[-2 if kernel == "outer gated" else -1 :]:
        state.zero_()
    public = equation(kernel).public
    return lambda *xs: public(*xs, reset=None, lengths=None, reverse=False)[0], leaves


def touched(leaves: list[Tensor], y: Tensor, work: str) -> int:
    """Bytes that must be read and written."""
    read, written = sum(x.nbytes for x in leaves), y.nbytes
    return read + written if work == FORWARD else 3 * read + 2 * written


def calling(call: Callable[..., Tensor], leaves: list[Tensor], y: Tensor, work: str) -> Callable[[], Any]:
    """One kind of work."""
    if work == FORWARD:
        return lambda: call(*leaves)
    leaves, dy = [x.detach().requires_grad_() for x in leaves], torch.randn_like(y)
    return lambda: torch.autograd.grad(call(*leaves), leaves, dy)


def timed(place: Place, floor: Floor) -> Row:
    """A kernel's times; one of another house's only where it computes the same."""
    call, leaves = draw(place)
    y = call(*leaves)
    size, found = touched(leaves, y, place.work), {}
    if place.by != OURS:
        call, leaves = peers.PEERS[place.by].begin(leaves)
        found["difference"] = peers.compared(other := call(*leaves), y)
        y = other
    f, graph = recorded(calling(call, leaves, y, place.work))
    row = {**floor.beside(f, size), "graph": graph, **found}
    if place.kernel in CELLS:  # bound by a step's latency, not by bytes
        row["us_per_step"] = 1e3 * row["median_ms"] / place.time
    return row


def recorded(f: Callable[[], Any]) -> tuple[Callable[[], Any], bool]:
    """As a CUDA graph where it can be one: not every kernel of other houses."""
    if not CUDA:
        return f, False
    try:
        return graphed(f), True
    except RuntimeError:
        return f, False


def run_kernels(toy: bool, floor: Floor) -> Iterator[Row]:
    """Ours and the others'; what is not installed has one row that says so."""
    ours: dict[Place, float] = {}
    for kernel, by in runners():
        if by != OURS and not peers.installed(by):
            yield {"kernel": kernel, "by": by, "skipped": "not installed"}
            continue
        for place in places(kernel, by, toy):
            row, alike = attempt(timed, place, floor), place._replace(by=OURS)
            if by == OURS and "median_ms" in row:
                ours[place] = row["median_ms"]
            elif "median_ms" in row:
                row["over_recurra"] = row["median_ms"] / ours.get(alike, math.nan)
            yield {**place._asdict(), **row}
