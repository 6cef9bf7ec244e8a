"""One token at batch 1 on one thread: recurra's step against reading its weights, and its call overhead."""

from collections.abc import Callable, Iterator

import numpy as np
import torch
from torch import nn

import recurra
from recurra.bench.report import Row
from recurra.bench.timing import interleave
from recurra.layers import MinGRULayer
from recurra.state import LinearState

WIDTH, SMALL, BLOCK = 512, 32, 20
COLUMNS = ("width", "contender", "weight_bytes", "repeats", "median_us", "q1_us", "q3_us", "over_read")


def weight_bytes(module: nn.Module) -> int:
    """Bytes of all parameters, and of the numbers and scales of quantized ones."""
    return sum(x.numel() * x.element_size() for x in (*module.parameters(), *module.buffers()))


def readers(size: int) -> dict[str, Callable[[], object]]:
    """Ways to read `size` bytes once, by names; the fastest is the machine's honest reading time.

    A sum is bound by arithmetic on some machines; a dot product of the two halves reads every number
    once and is not; a copy also writes.
    """
    half = size // 8
    memory = torch.rand(2 * half)
    left, right = memory.split(half)
    numbers, target = memory.numpy(), torch.empty_like(memory)
    return {
        "read: torch.sum": memory.sum,
        "read: numpy sum": numbers.sum,
        "read: torch.dot of halves": lambda: torch.dot(left, right),
        "read: numpy dot of halves": lambda: np.dot(numbers[:half], numbers[half:]),
        "read: memcpy": lambda: target.copy_(memory),
    }


def block(call: Callable[[], object]) -> Callable[[], object]:
    """`BLOCK` calls in a row, as a model that writes text makes them: its weights stay where they are."""

    def run() -> None:
        for _ in range(BLOCK):
            call()

    return run


def steppers(width: int) -> dict[str, tuple[nn.Module, Callable[[], object]]]:
    """One token through each layer, the state given and taken."""
    x, h = torch.randn(1, width), torch.zeros(1, 1, width)
    mingru, minlstm = recurra.MinGRU(width, width), recurra.MinLSTM(width, width)
    cell, gru, lstm = nn.GRUCell(width, width), nn.GRU(width, width), nn.LSTM(width, width)
    layer, state = MinGRULayer(width, width), LinearState(h[0])
    return {
        "MinGRULayer.step": (layer, lambda: layer.step(x, state)),
        "recurra.MinGRU.step": (mingru, lambda: mingru.step(x, h)),
        "recurra.MinLSTM.step": (minlstm, lambda: minlstm.step(x, (h, h))),
        "nn.GRUCell": (cell, lambda: cell(x, h[0])),
        "nn.GRU, T = 1": (gru, lambda: gru(x[None], h)),
        "nn.LSTM, T = 1": (lstm, lambda: lstm(x[None], (h, h))),
    }


@torch.no_grad()
def measure(width: int, repeats: int) -> Iterator[Row]:
    """Rows at one width; each layer is timed beside the readers of just its own weights' size."""
    for name, (module, step) in steppers(width).items():
        size = weight_bytes(module)
        runs = {name: step, **readers(size)}
        timings = interleave({key: block(call) for key, call in runs.items()}, repeats)
        fastest = min((reader for reader in timings if reader != name), key=lambda r: timings[r].median)
        for contender in (name, fastest):
            t, scale = timings[contender], 1e3 / BLOCK
            yield {
                "width": width,
                "contender": contender,
                "weight_bytes": size,
                "repeats": t.repeats,
                "median_us": t.median * scale,
                "q1_us": t.low * scale,
                "q3_us": t.high * scale,
                "over_read": t.median / timings[fastest].median,
            }


def run(repeats: int, say: Callable[[str], None]) -> list[Row]:
    """All rows, on one thread."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    rows = []
    for width in (WIDTH, SMALL):
        say(f"hidden {width}")
        rows += list(measure(width, repeats))
    torch.set_num_threads(threads)
    return rows
