"""How well a model predicts a text, in nats per token; from them bits per byte."""

import math
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from recurra.state import grows
from recurra.tasks.windows import gather

__all__ = ["CHUNK", "attends", "bits", "device_of", "text_loss", "windows_loss"]

# Tokens that are read at a time.
CHUNK = 4096


def bits(loss: float, bytes_per_token: float) -> float:
    """Bits per byte of a loss in nats per token."""
    return loss / math.log(2) / bytes_per_token


@torch.no_grad()
def windows_loss(model: Any, tokens: NDArray[Any], context: int, limit: int | None = None) -> float:
    """Over fresh windows of `context` tokens, each from no state, as papers report; `limit` at most."""
    context = min(context, len(tokens) - 1)
    count = (len(tokens) - 1) // context
    chosen = np.linspace(0, count - 1, min(limit or count, count)).astype(np.int64)
    nats = 0.0
    for starts in np.array_split(chosen * context, math.ceil(len(chosen) * context / CHUNK)):
        window = gather(tokens, starts, context).to(device_of(model))
        loss, _ = model.loss(window[:, :-1], window[:, 1:])
        nats += loss.item() * len(starts)
    return nats / len(chosen)


@torch.no_grad()
def text_loss(model: Any, tokens: NDArray[Any]) -> float:
    """Over the whole text from its first token to its last, the state carried all the way."""
    nats, state = 0.0, None
    for start in range(0, len(tokens) - 1, CHUNK):
        length = min(CHUNK, len(tokens) - 1 - start)
        window = gather(tokens, np.array([start]), length).to(device_of(model))
        loss, state = model.loss(window[:, :-1], window[:, 1:], state=state)
        nats += loss.item() * length
    return nats / (len(tokens) - 1)


@torch.no_grad()
def attends(model: Any) -> bool:
    """Whether what a model of tokens carries grows with what it has read."""
    _, state = model(torch.zeros(1, 1, dtype=torch.int64, device=device_of(model)))
    return grows(state)


def device_of(model: Any) -> torch.device:
    """Where a model is."""
    device: torch.device = next(model.parameters()).device
    return device
