"""One thread for the small tensors of these tests, and NaN in all memory that nobody has written yet."""

import os
import warnings
from collections.abc import Iterator

import pytest
import torch

from recurra.ops import native

if os.environ.get("RECURRA_ISA") == "none":
    with warnings.catch_warnings():  # said once, and here it is no surprise
        warnings.simplefilter("ignore")
        native.available()


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Several threads would spend their time waiting for each other."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(autouse=True)
def poisoned_memory() -> Iterator[None]:
    """In this mode torch.empty and its like are full of NaN."""
    torch.use_deterministic_algorithms(True)
    assert torch.ones(1).new_empty(64).isnan().all()
    yield
    torch.use_deterministic_algorithms(False)
