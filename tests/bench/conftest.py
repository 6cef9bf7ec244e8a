"""The benchmarks at sizes where they take a moment: that they run and what they leave, never how fast."""

import csv

import pytest


@pytest.fixture
def read():
    """Rows of a CSV file."""

    def rows(path):
        with path.open(newline="") as f:
            return list(csv.DictReader(f))

    return rows
