"""A block's step as one native call: in a small model a token takes longer in Python than in arithmetic."""

from collections.abc import Callable, Sequence
from operator import is_
from typing import Any, cast

from torch import Tensor, nn
from torch.nn.modules.module import _has_any_global_hook
from torch.utils.hooks import RemovableHandle
from torch.utils.weak import WeakIdKeyDictionary

from recurra.interop.accelerated.general import usual
from recurra.ops import native
from recurra.ops.native import NotRecordableError, Tape

__all__ = ["Recordings", "Steps"]


class Steps:
    """y = steps(x): step(x, *state) gives y and what the state is then, which is written to `state`.

    The state's tensors are contiguous and stay where they are. Where the kernels can do all of it, what they
    do is recorded at the first call and made again as one call at the next; else the step is taken in Python.
    """

    def __init__(self, module: nn.Module, step: Callable[..., tuple[Tensor, ...]], *state: Tensor) -> None:
        self.state, self._step, self._weights = state, step, list(module.parameters())
        self._tape: Tape | None = None
        self._place: Any = None

    def __call__(self, x: Tensor) -> Tensor:
        place = x.shape, x.dtype, native.marks(self._weights), native.threads_for(native.PARALLEL)
        if place != self._place:
            self._place, self._tape = place, self._recorded(x)
        if self._tape is None:
            y, *after = self._step(x, *self.state)
            for old, new in zip(self.state, after, strict=True):
                old.copy_(new)
            return y
        self._x.copy_(x)
        self._tape.replay()
        # What the next call writes to is not given away.
        return self._y.clone()

    def _recorded(self, x: Tensor) -> Tape | None:
        self._x = x.clone()
        try:
            with Tape() as tape:
                self._y, *after = self._step(self._x, *self.state)
            for old, new in zip(self.state, after, strict=True):
                tape.copy(old, new)
        except NotRecordableError:
            return None
        # Their memory too: it is read at these addresses, whatever becomes of the parameters.
        tape.keep(*(p.detach() for p in self._weights))
        return tape


class Recordings:
    """The steps of one block, for each cache that it is called with, as long as that lives."""

    def __init__(self) -> None:
        self._known = WeakIdKeyDictionary()

    def __reduce__(self) -> tuple[type["Recordings"], tuple[()]]:
        # A copy of a model has other weights, and other caches.
        return Recordings, ()

    def of(
        self, key: Any, sources: Sequence[Tensor], module: nn.Module, begin: Callable[[], Steps]
    ) -> Steps | None:
        """The steps of what belongs to `key`, begun anew where the sources are other tensors than they were,
        or where there are hooks that there were not: torch numbers those of the whole process; None where
        weights are of another kind, or hooks wait for a part of the block to be called."""
        (hooks, old), steps = self._known.get(key, ((-1, ()), None))
        newest = RemovableHandle.next_id
        if hooks != newest or not all(map(is_, old, sources)):
            steps = begin() if _plain(module) and not _watched(module) else None
            self._known[key] = (newest, tuple(sources)), steps
        return cast("Steps | None", steps)


def _plain(module: nn.Module) -> bool:
    # Tensors of inference mode do not count what is written to them.
    return all(usual(p) and not p.is_inference() for p in module.parameters())


def _watched(module: nn.Module) -> bool:
    inner = (m for m in module.modules() if m is not module)
    return _has_any_global_hook() or any(m._forward_hooks or m._forward_pre_hooks for m in inner)
