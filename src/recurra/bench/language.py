"""The language models that are timed, and a step of their training."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from recurra.models import ByteVocabulary, SequenceModel, language_model
from recurra.tasks.text import Text
from recurra.train.config import TrainConfig
from recurra.train.loop import launch
from recurra.train.step import Stepper

# torch's own layers, each in the plan of the block that has ours.
TORCH: dict[str, tuple[str, Callable[..., nn.Module]]] = {
    "nn.GRU": ("gru", nn.GRU),
    "nn.LSTM": ("lstm", nn.LSTM),
}


class TorchLayer(nn.Module):
    """A layer of torch.nn in the place of a block's, from no state and without masks."""

    def __init__(self, rnn: nn.Module) -> None:
        super().__init__()
        self.rnn = rnn

    def forward(self, x: Tensor, state: None, reset: None, lengths: None) -> tuple[Tensor, Any]:
        """[B, T, D] -> [B, T, H] and the state as torch.nn has it."""
        y, state = self.rnn(x)
        return y, state


def build(config: TrainConfig) -> SequenceModel:
    """The model of these options, over bytes; `config.model` may also name one of torch's layers."""
    name, kind = TORCH.get(config.model, (config.model, None))
    model = language_model(name, 256, config.width, config.depth, options=config.shape)
    if kind:
        for block in model.blocks:
            block.layer = TorchLayer(kind(config.width, block.config.hidden, batch_first=True))
    return model


def noise() -> Text:
    """A million drawn bytes: a step takes as long on them as on a text."""
    tokens = np.random.default_rng(0).integers(256, size=2**20, dtype=np.uint8)
    return Text(tokens, tokens[:0], ByteVocabulary(), "noise", 1.0)


class Step:
    """Each call is a step of training as `fit` makes it: batch, loss, gradient, clipping, AdamW."""

    def __init__(self, config: TrainConfig, text: Text) -> None:
        torch.manual_seed(config.seed)
        self.model, self.done, self.lr = build(config), 0, config.lr
        self.stepper = Stepper(self.model, text, config, launch(config))

    def __call__(self) -> None:
        """Make the next one."""
        self.stepper(self.done, self.lr)
        self.done += 1
