"""Every test starts from the same random numbers; workers of pytest-xdist do not crowd the cores."""

import os

import pytest
import torch
from hypothesis import settings

settings.register_profile("recurra", deadline=None, derandomize="CI" in os.environ)
settings.load_profile("recurra")

if "PYTEST_XDIST_WORKER" in os.environ:
    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)
