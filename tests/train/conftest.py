"""A text and a model so small that a training step takes a moment."""

import pytest
import torch

from recurra.models import encoder_decoder, language_model
from recurra.tasks.table import parse
from recurra.tasks.text import prepare
from recurra.train.config import TrainConfig
from recurra.train.metrics import rows

SMALL = {"width": 8, "depth": 2, "context": 8, "batch": 4, "steps": 6, "every": 3, "windows": 4, "lr": 1e-2}


@pytest.fixture(scope="session")
def text(tmp_path_factory):
    folder = tmp_path_factory.mktemp("text")
    (folder / "source").write_text("".join(f"line {i} of {i * i}\n" for i in range(99)), encoding="utf-8")
    return prepare(str(folder / "source"), folder / "text")


@pytest.fixture
def small():
    """Options of a small run, on the CPU."""
    return lambda **options: TrainConfig(**{**SMALL, "device": "cpu", **options})


@pytest.fixture
def model():
    """A fresh model of some options."""

    def make(config, size=256, channels=0, **options):
        torch.manual_seed(config.seed)
        shape = {"dropout": config.dropout, "mlp": 2.0, **options}
        if parse(config.task).paired:
            sides = config.encoder_layers, config.layers
            return encoder_decoder(*sides, size, config.width, config.depth, options=shape)
        return language_model(
            config.layers, size, config.width, config.depth, options=shape, channels=channels
        )

    return make


@pytest.fixture
def losses():
    """What a run must repeat bit for bit, from its metrics."""
    clock = ("tokens_per_s", "seconds")
    return lambda out: [
        [value for column, value in row.items() if column not in clock] for row in rows(out / "metrics.csv")
    ]
