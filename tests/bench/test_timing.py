from itertools import pairwise

import pytest

from recurra.bench import timing
from recurra.bench.timing import interleave, summary


@pytest.fixture
def clock(monkeypatch):
    """A clock that each contender moves by itself, so that no test depends on the machine."""
    now = [0.0]
    monkeypatch.setattr(timing, "perf_counter", lambda: now[0])

    def contender(seconds, calls):
        def run():
            now[0] += seconds
            calls.append(seconds)

        return run

    return contender


def test_contenders_take_turns_and_slow_ones_get_three_repeats(clock):
    calls = []
    timings = interleave({"fast": clock(0.01, calls), "slow": clock(3.0, calls)}, repeats=12, seconds=1.0)
    assert timings["fast"].repeats == 12
    assert timings["slow"].repeats == 3
    assert timings["slow"].median == pytest.approx(3000)
    measured = calls[3:]  # two warm-ups of the fast one, one of the slow
    gaps = [i for i, seconds in enumerate(measured) if seconds == 3.0]
    assert len(measured) == 15
    assert min(b - a for a, b in pairwise(gaps)) >= 4


def test_repeats_below_three_are_kept(clock):
    assert interleave({"slow": clock(9.0, [])}, repeats=1)["slow"].repeats == 1


def test_quartiles():
    assert summary([1.0, 2.0, 3.0, 4.0, 5.0], 9.0)[1:] == (3.0, 2.0, 4.0, 9.0)
    assert summary([7.0], 9.0)[1:4] == (7.0, 7.0, 7.0)
