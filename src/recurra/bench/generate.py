"""Writing one token after the other, at batch 1 on one thread: against reading the weights, and for how long.

A model's own time a token, with weights of each kind, is taken in turns with the fastest way to read as many
bytes as these have, each after an untimed call, so that neither pays for what the other left in the cache.
Then one text is written from its first token to its last: time a token and the memory of the process, at
powers of ten.
"""

from collections.abc import Callable, Iterator, Sequence
from statistics import median, quantiles
from time import perf_counter
from typing import NamedTuple

import torch

from recurra.bench.memory import resident
from recurra.bench.report import Row
from recurra.bench.step import readers, weight_bytes
from recurra.models import SequenceModel, language_model, quantize
from recurra.models.generate import Generation
from recurra.models.quantize import WEIGHTS

TEMPERATURE, PROMPT = 0.8, [10]
BLOCK, MOST = 20, 100
COLUMNS = (
    *("model", "width", "depth", "parameters", "weights", "weight_bytes", "at_token", "tokens"),
    *("median_us", "p99_us", "read_us", "over_read", "tokens_per_s", "resident_mib"),
)


class Size(NamedTuple):
    """A model over bytes: a block's name, its width and how many of them."""

    model: str
    width: int
    depth: int


WIDTH, PARAMETERS = 384, 10_000_000


def ten_million(model: str) -> Size:
    """Blocks of `WIDTH`, so many that the model comes nearest to `PARAMETERS`."""
    with torch.device("meta"):
        one, two = (sum(p.numel() for p in language_model(model, 256, WIDTH, n).parameters()) for n in (1, 2))
    return Size(model, WIDTH, 1 + round((PARAMETERS - one) / (two - one)))


def stream(model: SequenceModel, tokens: int) -> Generation:
    """A text of so many tokens as people write it: drawn at a temperature, from a seed."""
    return model.generate(PROMPT, tokens, temperature=TEMPERATURE, seed=0)


def times(call: Callable[[], object], count: int) -> list[float]:
    """Microseconds of each of `count` calls."""
    found = []
    for _ in range(count):
        start = perf_counter()
        call()
        found.append((perf_counter() - start) * 1e6)
    return found


def turns(runs: dict[str, Callable[[], object]], rounds: int) -> dict[str, list[float]]:
    """Microseconds of every call of each contender: `BLOCK` at a time, in turns, after an untimed one."""
    found: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(rounds):
        for name, run in runs.items():
            run()
            found[name] += times(run, BLOCK)
    return found


def spread(found: list[float]) -> Row:
    """Median, 99th percentile and speed."""
    middle = median(found)
    last = quantiles(found, n=100, method="inclusive")[-1] if len(found) > 1 else middle
    return {"tokens": len(found), "median_us": middle, "p99_us": last, "tokens_per_s": 1e6 / middle}


def beside_reading(model: SequenceModel, rounds: int) -> Row:
    """Times a token and over reading the weights once."""
    writing = stream(model, rounds * (BLOCK + 1))
    runs = {"token": lambda: next(writing), **readers(weight_bytes(model))}
    found = turns(runs, rounds)
    read = min(median(found[name]) for name in runs if name != "token")
    row = spread(found["token"])
    return {**row, "read_us": read, "over_read": row["median_us"] / read}


def along(model: SequenceModel, last: int) -> Iterator[Row]:
    """Times a token from the 1st, 10th, 100th, ... of one text, up to `last`, and the memory there."""
    writing, written, at = stream(model, last + MOST), 0, 1
    while at <= last:
        for _ in range(at - 1 - written):
            next(writing)
        found = times(lambda: next(writing), min(9 * at, MOST))
        written = at - 1 + len(found)
        yield {"at_token": at, **spread(found), "resident_mib": resident()}
        at *= 10


def made(size: Size, weights: str) -> tuple[SequenceModel, Row]:
    """The model with such weights, and what each of its rows says of it."""
    torch.manual_seed(0)
    model = language_model(size.model, width=size.width, depth=size.depth).eval()
    count = sum(p.numel() for p in model.parameters())
    quantize(model, weights)
    words = {"parameters": count, "weights": weights, "weight_bytes": weight_bytes(model)}
    return model, {**size._asdict(), **words}


def run(sizes: Sequence[Size], last: int, rounds: int, say: Callable[[str], None]) -> Iterator[list[Row]]:
    """The rows of one size after another, on one thread: each kind of weights beside reading them, and those
    with at_token, of one long text in fp32."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    for size in sizes:
        rows = []
        for weights in WEIGHTS:
            model, place = made(size, weights)
            say(f"{place['parameters']:,} parameters in {weights} beside reading them")
            rows.append({**place, **beside_reading(model, rounds)})
        model, place = made(size, "fp32")
        for row in along(model, last):
            say(f"{place['parameters']:,} parameters at token {row['at_token']:,}")
            rows.append({**place, **row})
        yield rows
    torch.set_num_threads(threads)
