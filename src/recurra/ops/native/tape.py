"""A chain of native calls, made again with one call: what a step costs beside its arithmetic is Python."""

import struct
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from operator import attrgetter
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode, _pop_mode_temporarily

from recurra.ops.native.library import address, call, tapes

_COPY = struct.Struct("3q")
_REPLAY = struct.Struct("2q")
_CALL = struct.Struct("2q")
# They read no tensor's numbers.
_IDLE = {"aten::empty", "aten::new_empty", "aten::empty_like", "aten::empty_strided", "aten::promote_types"}


class NotRecordableError(RuntimeError):
    """Something was computed outside of the native kernels."""


class Tape(TorchDispatchMode):
    """Records the native calls made under it, and the memory they use; `replay` makes them again.

    The same addresses are read and written each time: inputs are to be written in place. Raises
    NotRecordableError where torch computes anything, for a replay would miss it; what it computes of
    parameters that seldom change may come by way of `unrecorded` and `constant`. What is `replaced` by
    each replay, as a state is, kernels may write over, while they are recorded too.
    """

    def __init__(self, replaced: Sequence[Tensor] = ()) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._replaced = {x.data_ptr() for x in replaced}
        self._calls: list[tuple[str, bytes]] = []
        self._kept: list[Any] = []
        self._sources: list[Tensor] = []
        self._marks: list[int] = []
        self._replay: bytes | None = None

    def __enter__(self) -> "Tape":
        if recording():
            raise RuntimeError("a tape is being recorded already")
        super().__enter__()  # type: ignore[no-untyped-call]
        tapes.tape = self
        return self

    def __exit__(self, *error: Any) -> None:
        tapes.tape = None
        super().__exit__(*error)  # type: ignore[no-untyped-call]

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        if not (func._schema.name in _IDLE or _views(func)):
            raise NotRecordableError(f"{func} is not a native kernel")
        self._kept.append(out)
        return out

    def add(self, name: str, record: bytes) -> None:
        """Append a call that has been made."""
        self._calls.append((name, record))

    def keep(self, *tensors: Tensor) -> None:
        """Hold these too: what a kernel reads must not be freed."""
        self._kept.extend(tensors)

    def replaces(self, *tensors: Tensor) -> bool:
        """True where all of these may be written over."""
        return all(x.data_ptr() in self._replaced or not x.numel() for x in tensors)

    def copy(self, to: Tensor, source: Tensor) -> None:
        """Append a copy of `source`, contiguous like `to`, without making it now."""
        if to.shape != source.shape or to.dtype != source.dtype or not to.is_contiguous():
            raise NotRecordableError(f"{list(source.shape)} {source.dtype} does not fit into its place")
        if to.numel():
            size = to.numel() * to.element_size()
            self._calls.append(("copy", _COPY.pack(to.data_ptr(), source.data_ptr(), size)))
        self.keep(to, source)

    def constant(self, value: Any, sources: Sequence[Tensor]) -> None:
        """Hold what was computed of `sources` past the tape; a change of theirs makes this `stale`."""
        self._kept.append(value)
        self.keep(*(x.detach() for x in sources))
        self._sources += sources
        self._marks = marks(self._sources)

    @property
    def stale(self) -> bool:
        """True once what its constants were computed of has moved or was written to."""
        return self._marks != marks(self._sources)

    def replay(self) -> None:
        """Make all calls again, in their order."""
        if self._replay is None:
            self._replay = self._packed()
        call("replay", self._replay)

    def _packed(self) -> bytes:
        records = [torch.frombuffer(bytearray(record), dtype=torch.uint8) for _, record in self._calls]
        chain = b"".join(
            _CALL.pack(address(name), record.data_ptr())
            for (name, _), record in zip(self._calls, records, strict=True)
        )
        calls = torch.frombuffer(bytearray(chain or bytes(8)), dtype=torch.uint8)
        self._kept += [records, calls]
        return _REPLAY.pack(len(records), calls.data_ptr())


_version = attrgetter("_version")


def marks(tensors: Sequence[Tensor]) -> list[int]:
    """What tells that some have moved, as long as their old memory is held, or were written to.

    Asked at every step of a model: by maps it takes half the time.
    """
    return [*map(Tensor.data_ptr, tensors), *map(_version, tensors)]


@contextmanager
def unrecorded() -> Iterator[None]:
    """Compute past the tape that is being recorded, if one is; `constant` is to hold what comes of it."""
    tape = tapes.tape
    if tape is None:
        yield
        return
    tapes.tape = None
    try:
        with _pop_mode_temporarily():
            yield
    finally:
        tapes.tape = tape


def constant(value: Any, sources: Sequence[Tensor]) -> None:
    """Tell the tape that is being recorded, if one is, that `value` was computed of `sources`."""
    if recording():
        tapes.tape.constant(value, sources)


def replaced(*tensors: Tensor) -> bool:
    """True where a tape that is being recorded lets a kernel write over all of these."""
    return recording() and tapes.tape.replaces(*tensors)


def _views(func: Any) -> bool:
    """True for an op whose outputs share the memory of its inputs and are not written."""
    infos = [out.alias_info for out in func._schema.returns]
    return bool(infos) and all(info is not None and not info.is_write for info in infos)


def recording() -> bool:
    """True while this thread records a tape."""
    return tapes.tape is not None
