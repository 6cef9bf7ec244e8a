"""One thread for small tensors; without the native library its one warning is not what is tested here."""

import warnings
from collections.abc import Iterator

import pytest
import torch

from recurra.ops import native

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    native.available()


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
