"""NaN in all memory that nobody has written yet."""

from collections.abc import Iterator

import pytest
import torch


@pytest.fixture(autouse=True)
def poisoned_memory() -> Iterator[None]:
    """In this mode torch.empty and its like are full of NaN."""
    torch.use_deterministic_algorithms(True)
    assert torch.ones(1).new_empty(64).isnan().all()
    yield
    torch.use_deterministic_algorithms(False)
