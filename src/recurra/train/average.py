"""The mean of the weights at the last evaluations."""

from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from recurra.train.shards import share, whole

__all__ = ["Average"]

Weights = dict[str, Tensor]
NOW = "now"


class Average:
    """What a run is judged by and leaves: its weights' mean over the last `count` evaluations.

    As of the last checkpoints in arXiv 1706.03762, section 6.1. Training goes on from the weights as they
    are. Until the first evaluation, and where count is 1, there is no mean, and nothing is held for it.
    """

    def __init__(self, model: nn.Module, count: int) -> None:
        self.parameters = dict(model.named_parameters())
        self.past: deque[Weights] = deque(maxlen=count if count > 1 else 0)

    def take(self) -> None:
        """The weights of an evaluation."""
        if self.past.maxlen:
            self.past.append(self._now())

    @contextmanager
    def applied(self) -> Iterator[None]:
        """The model has the mean meanwhile."""
        if not self.past:
            yield
            return
        now = self._now()
        self._put({name: torch.stack([x[name] for x in self.past]).mean(0) for name in now})
        try:
            yield
        finally:
            self._put(now)

    def tensors(self) -> Weights:
        """All that `restore` needs, empty where there is no mean; of shared ones all processes ask."""
        if not self.past:
            return {}
        kept = {NOW: self._now(), **{str(i): weights for i, weights in enumerate(self.past)}}
        return {
            f"{when}/{name}": whole(x).cpu().contiguous()
            for when, weights in kept.items()
            for name, x in weights.items()
        }

    def restore(self, tensors: Weights) -> None:
        """Go on from what `tensors` gave."""
        kept: dict[str, Weights] = {}
        for key, x in tensors.items():
            when, _, name = key.partition("/")
            like = self.parameters[name]
            kept.setdefault(when, {})[name] = share(x.to(like.device, copy=True), like)
        self._put(kept.pop(NOW, {}))
        self.past.extend(kept[when] for when in sorted(kept, key=int))

    def _now(self) -> Weights:
        return {name: p.detach().clone() for name, p in self.parameters.items()}

    @torch.no_grad()
    def _put(self, weights: Weights) -> None:
        for name, x in weights.items():
            self.parameters[name].copy_(x)
