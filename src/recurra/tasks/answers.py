"""How many answers of a model are right."""

from collections.abc import Iterable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from recurra.models.cross_entropy import IGNORED
from recurra.tasks.losses import CHUNK, device_of

__all__ = ["Answers", "judge"]


class Answers(NamedTuple):
    """Share of right ones, their mean loss, and how many there were."""

    accuracy: float
    loss: float
    asked: int


@torch.no_grad()
def judge(model: Any, batches: Iterable[tuple[Tensor, Tensor]]) -> Answers:
    """Of all targets that are asked for, a few sequences at a time; the likeliest token is the answer."""
    right, nats, count = 0, 0.0, 0
    for inputs, targets in batches:
        rows = max(CHUNK // inputs.shape[1], 1)
        for x, y in zip(inputs.split(rows), targets.split(rows), strict=True):
            logits = model(x.to(device_of(model)))[0].float().cpu()
            right += int((logits.argmax(-1) == y).sum())
            nats += torch.nn.functional.cross_entropy(
                logits.flatten(0, 1), y.flatten(), reduction="sum"
            ).item()
        count += int((targets != IGNORED).sum())
    return Answers(right / count, nats / count, count)
