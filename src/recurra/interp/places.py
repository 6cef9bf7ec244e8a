"""Reading and editing what passes at a place of a model, and its states at chosen positions."""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

from torch import Tensor

from recurra.interp.foreign import foreign
from recurra.interp.subject import Edit, Own, Place, State, Subject
from recurra.models.sequence import SequenceModel

__all__ = ["intervene", "record", "states_at", "subject"]


def subject(model: Any) -> Subject:
    """A model of recurra or of transformers for the methods of this room. Raises TypeError for another."""
    if isinstance(model, Subject):
        return model
    return Own(model) if isinstance(model, SequenceModel) else foreign(model)


@contextmanager
def intervene(model: Any, place: Place, function: Edit) -> Iterator[None]:
    """In this context function(value) passes on in the place of each value that comes to `place`.

    Whole sequences and single steps, `generate` too, which takes the ordinary step meanwhile. The innermost
    of several contexts at one place comes last. Raises ValueError where the model has no such place, or
    where function returns a tensor of another shape.
    """

    def edit(value: Any) -> Any:
        new = function(value)
        if type(new) is not type(value) or getattr(new, "shape", None) != getattr(value, "shape", None):
            want, got = (getattr(v, "shape", type(v).__name__) for v in (value, new))
            raise ValueError(f"function must return a value like the one it was given, {want}, got {got}")
        return new

    remove = subject(model).tap(place, edit)
    try:
        yield
    finally:
        remove()


@contextmanager
def record(model: Any, places: Sequence[Place]) -> Iterator[dict[Place, list[Any]]]:
    """In this context values that come to the places are collected: a list a place, an entry a call.

    They are as they are in the model: with their gradients, and not to be written to.
    """
    seen: dict[Place, list[Any]] = {place: [] for place in places}

    def keep(values: list[Any], value: Any) -> Any:
        values.append(value)
        return value

    with ExitStack() as stack:
        for place, values in seen.items():
            stack.enter_context(intervene(model, place, partial(keep, values)))
        yield seen


def states_at(
    model: Any, tokens: Tensor, positions: Sequence[int], state: State | None = None
) -> list[State]:
    """The model's state right after each of these positions of tokens [B, T], in the order given.

    The sequence is read once, in pieces that end there. state: of what came before, None: nothing. Raises
    ValueError for a position that is not in 0..T-1.
    """
    time = tokens.shape[1]
    if wrong := [p for p in positions if not 0 <= p < time]:
        raise ValueError(f"positions must lie in 0..{time - 1}, got {wrong[0]}")
    whole, found, begin = subject(model), dict[int, State](), 0
    for end in sorted({p + 1 for p in positions}):
        _, state = whole.read(tokens[:, begin:end], state)
        found[end - 1], begin = state, end
    return [found[p] for p in positions]
