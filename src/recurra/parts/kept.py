"""What is computed of parameters alone, and seldom."""

from collections.abc import Callable
from typing import Any, TypeVar

from torch import Tensor

from recurra.ops import native
from recurra.ops.registry import unobserved

__all__ = ["Kept"]

V = TypeVar("V")


class Kept:
    """kept(make, *parameters) is make(), computed anew only where a parameter has moved or was written to.

    make computes of these parameters alone; its value, which is shared, is not to be written to. Where
    gradients, transforms or a compiler watch, nothing is kept. To a recorded step it is a constant, with
    which the step ends. A write through `p.data` goes unseen, as it does for autograd.
    """

    def __init__(self) -> None:
        self._old: list[Tensor] = []
        self._marks: list[int] | None = None
        self._value: Any = None

    def __reduce__(self) -> tuple[type["Kept"], tuple[()]]:
        # A copy holds none of the old memory, and in a file the parameters would lie three times.
        return Kept, ()

    def __call__(self, make: Callable[[], V], *parameters: Tensor) -> V:
        # Tensors of inference mode do not count what is written to them; those of no memory are all alike.
        if not unobserved(*parameters) or any(p.is_inference() or p.is_meta for p in parameters):
            return make()
        marks = native.marks(parameters)
        if marks != self._marks:
            with native.unrecorded():
                self._value = make()
            # The old parameters are held too: no new one can take their place in memory meanwhile.
            self._old, self._marks = [p.detach() for p in parameters], marks
        native.constant(self._value, parameters)
        value: V = self._value
        return value
