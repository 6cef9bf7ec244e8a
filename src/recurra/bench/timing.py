"""Interleaved timing: contenders take turns, so that a drift of the machine hits all of them alike."""

import random
from collections.abc import Callable
from statistics import quantiles
from time import perf_counter
from typing import NamedTuple

# One run that takes longer than this is not repeated at a larger size.
PATIENCE = 30.0
LEAST = 3


class Timing(NamedTuple):
    """Repeats of one contender in milliseconds: median and quartiles; `first` is its first warm-up."""

    repeats: int
    median: float
    low: float
    high: float
    first: float

    @property
    def columns(self) -> dict[str, float]:
        """As result files have it."""
        return {"repeats": self.repeats, "median_ms": self.median, "q1_ms": self.low, "q3_ms": self.high}


def once(run: Callable[[], object]) -> float:
    """Milliseconds of one call."""
    start = perf_counter()
    run()
    return (perf_counter() - start) * 1e3


def summary(times: list[float], first: float) -> Timing:
    """Median and quartiles of at least one time."""
    low, median, high = quantiles(times, n=4, method="inclusive") if len(times) > 1 else times * 3
    return Timing(len(times), median, low, high, first)


def interleave(
    runs: dict[str, Callable[[], object]],
    repeats: int,
    seconds: float = 4.0,
    say: Callable[[str], None] = lambda _: None,
) -> dict[str, Timing]:
    """Time every contender `repeats` times, in rounds of a drawn order, after two warm-ups each.

    One whose repeats would take longer than `seconds` gets fewer, spread evenly over the rounds, but
    at least three (or `repeats`, if less).
    """
    first, planned = {}, {}
    for name, run in runs.items():
        say(f"{name}: warming up")
        first[name] = once(run)
        expected = min(first[name], once(run)) if first[name] < 2e3 else first[name]
        planned[name] = min(repeats, max(LEAST, int(seconds * 1e3 / max(expected, 1e-3))))
    rounds = max(planned.values(), default=0)
    order, draw = list(runs), random.Random(0)
    times: dict[str, list[float]] = {name: [] for name in runs}
    for r in range(rounds):
        say(f"round {r + 1} of {rounds}")
        draw.shuffle(order)
        for name in order:
            if (r + 1) * planned[name] // rounds > r * planned[name] // rounds:
                times[name].append(once(runs[name]))
    return {name: summary(times[name], first[name]) for name in runs}
