"""Every test starts from the same random numbers, on one thread; it may change both."""

import os
import warnings
from collections.abc import Iterator

import pytest
import torch
from hypothesis import settings

from recurra.ops import native

settings.register_profile("recurra", deadline=None, derandomize="CI" in os.environ)
settings.load_profile("recurra")

if os.environ.get("RECURRA_ISA") == "none":
    with warnings.catch_warnings():  # said once, and here it is no surprise
        warnings.simplefilter("ignore")
        native.available()


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Workers must collect one order, and a set has another in every process."""
    for mark in metafunc.definition.iter_markers("parametrize"):
        if isinstance(mark.args[1], set | frozenset):
            raise TypeError(f"{metafunc.function.__name__} is parametrized by a set: sort it")


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """For small tensors several threads would spend their time waiting for each other."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(params=native.LEVELS)
def level(request: pytest.FixtureRequest) -> Iterator[str]:
    """Each instruction set that this machine has."""
    before = native.level()
    if native.select(request.param) != request.param:
        pytest.skip(f"this machine has no {request.param}")
    yield request.param
    native.select(before)
