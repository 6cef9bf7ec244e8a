"""The state of a model as transformers carries it from call to call."""

from typing import Any

import torch
from torch import Tensor
from transformers import Cache

from recurra.models import SequenceModel
from recurra.models.stepper import PlainStepper, RecordedStepper, renewed, stepper
from recurra.state import apply, select

__all__ = ["RecurraCache"]


class RecurraCache(Cache):  # type: ignore[misc] # transformers is not looked into
    """What a model has read so far, as `past_key_values`; each call of the model changes it.

    Of one size however long the text, unless attention is in it. Nothing can be taken back from a state:
    `crop` raises NotImplementedError, and transformers refuses assisted generation.
    """

    is_croppable = False

    def __init__(self) -> None:
        super().__init__(layers=[])
        self._state: Any = None
        self._seen = 0
        # Decoding keeps the state in the memory of a step, which is bound to a model.
        self._step: PlainStepper | RecordedStepper | None = None

    @property
    def state(self) -> Any:
        """One state a block, as `SequenceModel` takes and gives it; None at a fresh start."""
        return self._state if self._step is None else apply(torch.clone, self._step.state)

    @property
    def begun(self) -> bool:
        """True once something was read."""
        return self._state is not None or self._step is not None

    def __getstate__(self) -> dict[str, Any]:
        # A copy does not bring the model with it.
        return {**vars(self), "_state": self.state, "_step": None}

    def put(self, state: Any, steps: int) -> None:
        """Take the state that is there `steps` tokens later."""
        self._state, self._step = state, None
        self._seen += steps

    def step(self, model: SequenceModel, token: Tensor) -> Tensor:
        """Logits [B, vocabulary] after one more token [B]; without gradients, and there must be a state."""
        if self._step is None or self._step.model is not model:
            self._state, self._step = None, stepper(model, self.state)
        self._step = renewed(self._step)
        self._seen += 1
        return self._step(token).clone()

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """Tokens so far, padding included."""
        return self._seen

    def reset(self) -> None:
        """Forget everything."""
        self.put(None, -self._seen)

    def reorder_cache(self, beam_idx: Tensor) -> None:
        """Go on from these rows [B], as beam search does."""
        if self._step is not None:
            self._step.select(beam_idx)
        else:
            self.batch_select_indices(beam_idx)

    def batch_select_indices(self, indices: Tensor) -> None:
        """Keep these rows of the batch, in this order."""
        if self.begun:
            self.put(select(self.state, indices), 0)

    def batch_repeat_interleave(self, repeats: int) -> None:
        """Each row of the batch so many times."""
        if self.begun:
            self.put(apply(lambda x: x.repeat_interleave(repeats, 0), self.state), 0)

    def crop(self, tokens_to_remove: int) -> None:
        """Raise NotImplementedError."""
        raise NotImplementedError(
            "a state does not hold the ones before it: crop is not to be had, copies are"
        )
