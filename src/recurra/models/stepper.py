"""A model's step with a state of its own: as one native call where the model can be recorded."""

from typing import Any

import torch
from torch import Tensor

from recurra.ops.native import NotRecordableError, Tape
from recurra.state import apply

__all__ = ["PlainStepper", "RecordedStepper", "stepper"]


class PlainStepper:
    """logits [B, V] = step(token [B]), by way of `model.step`; `state` is what has been read so far."""

    def __init__(self, model: Any, state: Any) -> None:
        self._model, self.state = model, state

    def __call__(self, token: Tensor) -> Tensor:
        logits: Tensor
        logits, self.state = self._model.step(token, self.state)
        return logits


class RecordedStepper:
    """The same as one native call: at a million parameters Python takes seven times as long as arithmetic.

    Logits and state lie in the same memory at each call. Parameters are read where they lay when the step
    was recorded: changes in place are seen. Raises NotRecordableError where the kernels can't do it all.
    """

    def __init__(self, model: Any, state: Any) -> None:
        self.state = apply(lambda x: x.clone(memory_format=torch.contiguous_format), state)
        self._embedding = model.embed.weight.detach()
        rows = _batch(state)
        self._x: Tensor = model.embed(torch.zeros(rows, dtype=torch.int64, device=self._embedding.device))
        self._logits: Tensor
        with Tape() as self._tape:
            self._logits, end = model.decode(self._x, self.state)
        self._tape.keep(*(p.detach() for p in model.parameters()))
        apply(self._carry, self.state, end)

    def _carry(self, before: Tensor, after: Tensor) -> Tensor:
        self._tape.copy(before, after)
        return before

    def __call__(self, token: Tensor) -> Tensor:
        torch.index_select(self._embedding, 0, token, out=self._x)
        self._tape.replay()
        return self._logits


def _batch(state: Any) -> int:
    while not isinstance(state, Tensor):
        state = state[0]
    return len(state)


@torch.no_grad()
def stepper(model: Any, state: Any) -> PlainStepper | RecordedStepper:
    """The fastest step from this state, which is left as it is; without gradients, to be called so."""
    try:
        return RecordedStepper(model, state)
    except NotRecordableError:
        return PlainStepper(model, state)
