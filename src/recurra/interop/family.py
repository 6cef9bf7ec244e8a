"""The words of a table between two houses: what a key of a config and a tensor are called here and there.

A table is read from left to right by import and from right to left by export.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from torch import Tensor

__all__ = ["Family", "Field", "Head", "Must", "Row", "reshaped"]

Config = Mapping[str, Any]


def _as_it_is(value: Any, theirs: Config) -> Any:
    return value


class Field(NamedTuple):
    """A key of theirs that is a field of our blocks' configs, or "" where it is none by itself.

    default: what a config without the key means; kinds: of its value, () for that of the default; positive:
    a number must be, for in ours a zero often means something else. load: our value from theirs and all of
    their config; save: theirs from our model, None: the field as it is.
    """

    theirs: str
    default: Any
    ours: str
    load: Callable[[Any, Config], Any] = _as_it_is
    save: Callable[[Any], Any] | None = None
    kinds: tuple[type, ...] = ()
    positive: bool = True


class Must(NamedTuple):
    """A key of theirs that changes the logits and that we know one value of: the default, or what `fits`."""

    theirs: str
    default: Any
    fits: Callable[[Any, Config], bool] | None = None


class Head(NamedTuple):
    """What is in front of the last product, and behind it: `models.head.LanguageHead`."""

    norm: str
    eps: float
    cap: float = 0.0


class Row(NamedTuple):
    """A parameter of ours, and the tensors of theirs that it is made of; {} is the number of a block.

    split: their tensors from ours and the block's config (also on meta: it says which shapes are expected);
    join: back.
    """

    ours: str
    theirs: tuple[str, ...]
    split: Callable[[Tensor, Any], Sequence[Tensor]] = lambda x, _: [x]
    join: Callable[[Sequence[Tensor], Any], Tensor] = lambda xs, _: xs[0]


def reshaped(ours: str, theirs: str, split: Callable[[Tensor, Any], Tensor], axes: int) -> Row:
    """A tensor that has more axes there; here it has the last of them, `axes` in number, flat in front."""
    return Row(ours, (theirs,), lambda x, c: [split(x, c)], lambda xs, _: _flat(xs[0], axes))


def _flat(x: Tensor, axes: int) -> Tensor:
    return x.reshape(-1, *x.shape[x.ndim - axes + 1 :])


class Family(NamedTuple):
    """One model type of transformers that one of our blocks can be.

    vocabulary, width, depth, tied: what their config means where it does not say. fixed: fields of our blocks
    that are always so; free: those that no logits depend on; varying: those that may differ among the blocks.
    harmless: keys of theirs that say nothing of the logits. head: of their config. place: the fields of block
    i, from those of all. aliases: other names of tensors; ignored: what ends the name of one that is none.
    """

    model_type: str
    architecture: str
    block: str
    keys: tuple[Field | Must, ...]
    rows: tuple[Row, ...]
    head: Callable[[Config], Head]
    vocabulary: int
    width: int
    depth: int
    tied: bool
    fixed: Config
    free: tuple[str, ...]
    varying: tuple[str, ...]
    harmless: tuple[str, ...]
    place: Callable[[dict[str, Any], Config, int], dict[str, Any]] = lambda fields, theirs, i: fields
    aliases: Mapping[str, str] = {}
    ignored: tuple[str, ...] = ()
