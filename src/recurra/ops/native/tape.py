"""A chain of native calls, made again with one call: what a step costs beside its arithmetic is Python."""

import struct
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from recurra.ops.native.library import address, call, tapes

_COPY = struct.Struct("3q")
_REPLAY = struct.Struct("2q")
_CALL = struct.Struct("2q")
_ALLOCATIONS = {"aten::empty", "aten::new_empty", "aten::empty_like", "aten::empty_strided"}


class NotRecordableError(RuntimeError):
    """Something was computed outside of the native kernels."""


class Tape(TorchDispatchMode):
    """Records the native calls made under it, and the memory they use; `replay` makes them again.

    The same addresses are read and written each time: inputs are to be written in place. Raises
    NotRecordableError where torch computes anything, for a replay would miss it.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._calls: list[tuple[str, bytes]] = []
        self._kept: list[Any] = []
        self._replay: bytes | None = None

    def __enter__(self) -> "Tape":
        if tapes.calls is not None:
            raise RuntimeError("a tape is being recorded already")
        super().__enter__()  # type: ignore[no-untyped-call]
        tapes.calls = self._calls
        return self

    def __exit__(self, *error: Any) -> None:
        tapes.calls = None
        super().__exit__(*error)  # type: ignore[no-untyped-call]

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        if not (_allocates(func) or _views(func)):
            raise NotRecordableError(f"{func} is not a native kernel")
        self._kept.append(out)
        return out

    def keep(self, *tensors: Tensor) -> None:
        """Hold these too: what a kernel reads must not be freed."""
        self._kept.extend(tensors)

    def copy(self, to: Tensor, source: Tensor) -> None:
        """Append a copy of `source`, contiguous like `to`, without making it now."""
        if to.shape != source.shape or to.dtype != source.dtype or not to.is_contiguous():
            raise NotRecordableError(f"{list(source.shape)} {source.dtype} does not fit into its place")
        if to.numel():
            size = to.numel() * to.element_size()
            self._calls.append(("copy", _COPY.pack(to.data_ptr(), source.data_ptr(), size)))
        self.keep(to, source)

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


def _allocates(func: Any) -> bool:
    return func._schema.name in _ALLOCATIONS


def _views(func: Any) -> bool:
    """True for an op whose outputs share the memory of its inputs and are not written."""
    infos = [out.alias_info for out in func._schema.returns]
    return bool(infos) and all(info is not None and not info.is_write for info in infos)


def recording() -> bool:
    """True while this thread records a tape."""
    return tapes.calls is not None
