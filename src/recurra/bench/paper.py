"""What arXiv 2410.01201 says of speed and memory, and where each number was read; nothing else is taken."""

from typing import NamedTuple

__all__ = ["FACTORS", "MEMORY", "TRUST", "Factor"]


class Factor(NamedTuple):
    """How many times faster than the traditional cell at so many steps; tag: where it was read."""

    kind: str
    time: int
    value: float
    tag: str


# On a T4 GPU, batch 64.
FACTORS = (
    Factor("GRU", 512, 175, "R2; in the abstract of versions 1 and 2, gone from 3"),
    Factor("GRU", 4096, 1324, "R2"),
    Factor("LSTM", 512, 235, "R2"),
    Factor("LSTM", 4096, 1361, "R2"),
)
MEMORY = (
    "The paper has its layers take about 88 % more memory than the traditional ones, which can't be run in "
    "parallel, and Mamba 56 % more than minGRU (R2)."
)
TRUST = (
    "The paper's factors are of one training step on a T4 GPU, batch 64, against a GRU and an LSTM which the "
    "notes on it don't name. R2: read in notes on the paper, not in the paper itself."
)
