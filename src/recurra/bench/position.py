"""What a token costs at a position of a long text: the figure of arXiv 2405.13956, at batch 1 on one thread.

The text up to a position is read in parallel; then tokens are written and timed, one by one. Each model has
a process of its own, so that the memory is its own too.
"""

import json
import sys
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import count
from typing import Any

import torch

from recurra.bench.generate import MOST, TEMPERATURE, Size, spread, times
from recurra.bench.memory import resident, told
from recurra.bench.report import Row
from recurra.models import SequenceModel, language_model
from recurra.state import apply

COLUMNS = (
    *("model", "width", "depth", "parameters", "position", "tokens", "median_us", "p99_us", "tokens_per_s"),
    *("state_mib", "resident_mib"),
)
FIRST = 10


def positions(last: int) -> Iterator[int]:
    """10, 20, 50, 100, ... up to `last`."""
    for power in count():
        for head in (1, 2, 5):
            if (at := head * FIRST * 10**power) > last:
                return
            yield at


def mib(state: object) -> float:
    """Of all tensors of a state."""
    sizes: list[int] = []
    apply(lambda x: sizes.append(x.numel() * x.element_size()), state)
    return sum(sizes) / 2**20


def along(model: SequenceModel, last: int) -> Iterator[Row]:
    """Times a token at each position of one text, and the memory there."""
    state: Any = None
    read, draw = 0, torch.Generator().manual_seed(0)
    for at in positions(last):
        text = torch.randint(256, (1, at - read), generator=draw)
        written = min(at - 2, MOST)  # so that the next position is not reached yet
        writing = model.generate(text, written + 1, temperature=TEMPERATURE, seed=0, state=state)
        state = None  # the writer has its own: what is resident shall be no more than that
        next(writing)  # from what the text left: no token is read for it
        row = {"position": at, **spread(times(partial(next, writing), written))}
        row["resident_mib"] = resident()
        state, read = writing.state, at + written + 1
        yield {**row, "state_mib": mib(state)}


def measure(size: Size, last: int) -> list[Row]:
    """The rows of one model in this process, on one thread."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    model = language_model(size.model, width=size.width, depth=size.depth).eval()
    place = {**size._asdict(), "parameters": sum(p.numel() for p in model.parameters())}
    return [{**place, **row} for row in along(model, last)]


def run(sizes: Sequence[Size], last: int, say: Callable[[str], None]) -> Iterator[list[Row]]:
    """The rows of one model after another, each in a fresh process."""
    for size in sizes:
        say(f"{size.model} up to token {last:,}")
        rows: list[Row] = json.loads(told(__name__, [*size, last], f"{size.model} at {last:,} tokens"))
        yield rows


def _main(words: Sequence[str]) -> None:
    model, width, depth, last = words
    print(json.dumps(measure(Size(model, int(width), int(depth)), int(last))))


if __name__ == "__main__":
    _main(sys.argv[1:])
