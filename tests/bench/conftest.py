"""The benchmarks at sizes where they take a moment: that they run and what they leave, never how fast."""

import csv

import pytest
import torch


@pytest.fixture(autouse=True)
def _threads():
    """The benchmarks set the number of threads; the next test gets it back."""
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def read():
    """Rows of a CSV file."""

    def rows(path):
        with path.open(newline="") as f:
            return list(csv.DictReader(f))

    return rows
