"""A model's step with a state of its own: as one native call where the model can be recorded."""

from itertools import chain
from math import inf
from typing import Any

import torch
from torch import Tensor
from torch.nn.modules.module import _has_any_global_hook
from torch.utils.hooks import RemovableHandle

from recurra.models.pairs import DecoderState
from recurra.ops import native
from recurra.ops.attention import KVRoom
from recurra.ops.native import NotRecordableError, Tape
from recurra.ops.project import FEW_ROWS
from recurra.parts.embedding import Embedding
from recurra.state import KVState, apply, select

__all__ = ["PlainStepper", "RecordedStepper", "renewed", "stepper"]


class PlainStepper:
    """logits [B, V] = step(token [B]), by way of `model.step`; `state` is what has been read so far."""

    stale = False

    def __init__(self, model: Any, state: Any) -> None:
        self.model, self.state = model, state

    def __call__(self, token: Tensor) -> Tensor:
        logits: Tensor
        logits, self.state = self.model.step(token, self.state)
        return logits

    def select(self, rows: Tensor) -> None:
        """Go on from these rows of the batch, as many as there are."""
        self.state = _moved(self.state, select(_moving(self.state), rows))


class RecordedStepper:
    """The same as one native call: at a million parameters Python takes seven times as long as arithmetic.

    Logits and state lie in the same memory at each call. Weights, and what a decoder remembers of its source,
    are read where they lay when the step was recorded: changes in place are seen. Once weights have moved,
    or something `Kept` of them is not what it was, or a cache has no room left, or somebody looks on, it is
    `stale`, not to be called again but `renewed`. Raises NotRecordableError where the kernels can't do it
    all, or where somebody looks on.
    """

    def __init__(self, model: Any, state: Any) -> None:
        begun = _moving(state)
        rows = _batch(begun)
        _check(model, rows)
        self.model, self._place, self._hooks = model, _place(model), RemovableHandle.next_id
        self._blocks = _own(model.blocks, begun)
        self._state = _moved(state, self._blocks)
        self._rooms = [s for s in self._blocks if isinstance(s, KVRoom)]
        self._others = _tensors([s for s in self._blocks if not isinstance(s, KVRoom)])
        self._left = min((room.room_keys.shape[2] for room in self._rooms), default=inf)
        self._embedding, self._scale = model.embed.weight.detach(), model.embed.scale
        self._x: Tensor = model.embed(torch.zeros(rows, dtype=torch.int64, device=self._embedding.device))
        self._logits: Tensor
        with Tape(_tensors(self._blocks)) as self._tape:
            self._logits, end = model.decode(self._x, self._state)
        self._tape.keep(*(x.detach() for x in (*model.parameters(), *model.buffers())))
        apply(self._carry, self._blocks, _moving(end))
        for own, given in zip(self._blocks, begun, strict=True):
            if not isinstance(own, KVRoom):  # a kernel may have written over it
                apply(Tensor.copy_, own, given)

    def _carry(self, before: Tensor, after: Tensor) -> Tensor:
        if after is not before:  # as in a room, which was written in place
            self._tape.copy(before, after)
        return before

    @property
    def state(self) -> Any:
        """What has been read so far; it changes with the next call."""
        return _moved(self._state, tuple(map(_closed, self._blocks)))

    def __reduce__(self) -> tuple[Any, ...]:
        # A copy, or another process, has other addresses.
        return stepper, (self.model, self.state)

    @property
    def stale(self) -> bool:
        """True without room or under a hook, once weights have moved or constants are out of date, and in a
        forked child."""
        moved = not self._left or self._place != _place(self.model) or self._tape.stale
        return moved or self._joined()

    def _joined(self) -> bool:
        """True where the model has hooks that it had not: torch numbers those of the whole process."""
        newest = RemovableHandle.next_id
        if newest != self._hooks and not _watched(self.model):
            self._hooks = newest
        return newest != self._hooks

    def __call__(self, token: Tensor) -> Tensor:
        if token.shape != self._x.shape[:1]:
            raise ValueError(f"token must be {list(self._x.shape[:1])}, got {list(token.shape)}")
        torch.index_select(self._embedding, 0, token, out=self._x)
        if self._scale != 1:
            self._x.mul_(self._scale)
        self._tape.replay()
        self._left -= 1
        return self._logits

    def select(self, rows: Tensor) -> None:
        """Go on from these rows of the batch, as many as there are."""
        if rows.shape != self._x.shape[:1]:  # what is one row would be copied to all
            raise ValueError(f"rows must be {list(self._x.shape[:1])}, got {list(rows.shape)}")
        # Of a room, which is mostly empty, only what it holds.
        held = (part for room in self._rooms for part in (*room.closed(), room.begin))
        for x in chain(self._others, held):
            x.copy_(x.index_select(0, rows))


def _moving(state: Any) -> Any:
    """What a step changes, one state a block; what a decoder knows of its source stays."""
    return state.blocks if isinstance(state, DecoderState) else state


def _moved(state: Any, blocks: Any) -> Any:
    """The state with these of its blocks."""
    return state._replace(blocks=blocks) if isinstance(state, DecoderState) else blocks


def _check(model: Any, rows: int) -> None:
    """Raise NotRecordableError where it takes no try to tell."""
    if not hasattr(model, "decode") or type(model.embed) is not Embedding or _watched(model):
        raise NotRecordableError("what a model, an embedding or a hook does in Python would be missed")
    if rows > FEW_ROWS or not native.takes(model.embed.weight):
        raise NotRecordableError(f"a step's products have kernels on a CPU, for up to {FEW_ROWS} rows")


def _own(blocks: Any, state: Any) -> tuple[Any, ...]:
    """A copy of the blocks' states to write in; those that grow have room."""

    def copy(block: Any, state: Any) -> Any:
        if isinstance(state, KVState) and hasattr(block, "with_room"):
            return block.with_room(state)
        return apply(lambda x: x.clone(memory_format=torch.contiguous_format), state)

    return tuple(map(copy, blocks, state))


def _closed(state: Any) -> Any:
    return state.closed() if isinstance(state, KVRoom) else state


def _tensors(state: Any) -> list[Tensor]:
    found: list[Tensor] = []
    apply(found.append, state)
    return found


def _place(model: Any) -> tuple[int, int]:
    """What moves with all the weights, and the number of threads."""
    return model.embed.weight.data_ptr(), native.threads_for(native.PARALLEL)


def _watched(model: Any) -> bool:
    """True where hooks wait for a module to be called: a replay calls none."""
    return _has_any_global_hook() or any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


def _batch(state: Any) -> int:
    while not isinstance(state, Tensor):
        if not state:
            raise NotRecordableError("without a state there is no telling the batch")
        state = state[0]
    return len(state)


# In inference mode it would be made of tensors that nothing outside of that mode may write to.
@torch.inference_mode(False)
@torch.no_grad()
def stepper(model: Any, state: Any) -> PlainStepper | RecordedStepper:
    """The fastest step from this state, which is left as it is; without gradients, to be called so."""
    try:
        return RecordedStepper(model, state)
    except NotRecordableError:
        return PlainStepper(model, state)


def renewed(step: PlainStepper | RecordedStepper) -> PlainStepper | RecordedStepper:
    """The step itself, or where it is stale another one, from its state."""
    return stepper(step.model, step.state) if step.stale else step
