"""A model under study: what the methods of this room need of it, and how models of recurra give it."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from typing import Any

from torch import Tensor, nn

from recurra.blocks.aaren import AarenBlock
from recurra.blocks.mamba import MambaBlock
from recurra.blocks.minrnn import MinRNNBlock
from recurra.blocks.mlstm import MLSTMBlock
from recurra.blocks.rwkv4 import RWKV4Block
from recurra.blocks.rwkv5 import RWKV5Block
from recurra.blocks.s4 import S4Block
from recurra.blocks.slstm import SLSTMBlock
from recurra.blocks.transformer import TransformerBlock
from recurra.blocks.xlstm_large import XLSTMLargeBlock
from recurra.models.sequence import SequenceModel
from recurra.ops.quantized import wide

__all__ = ["KINDS", "Edit", "Own", "Place", "Remove", "State", "Subject", "on_input", "on_output"]

# One state a block.
State = tuple[Any, ...]
# What passes at a place to what passes on.
Edit = Callable[[Any], Any]
Remove = Callable[[], None]
KINDS = ("block", "layer", "state")


@dataclass(frozen=True)
class Place:
    """A place in a model: the `kind` at the block of this index, counted from 0.

    block: the residual stream behind the block, [B, T, width], in a step [B, width]. layer: what the block's
    recurrence (or attention) gives, gated and normed as far as the block does that, in front of the product
    that takes it back to the width; [B, T, D], in a step [B, D]. state: what the block hands on when a call
    ends, after the last of its tokens. Raises ValueError that names the argument.
    """

    kind: str
    block: int

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f"kind must be one of {', '.join(KINDS)}, got {self.kind!r}")
        if self.block < 0:
            raise ValueError(f"block must not be negative, got {self.block}")


class Subject(ABC):
    """Blocks, the way from the residual stream to logits, a call with an explicit state, and its places."""

    blocks: Sequence[nn.Module]

    @abstractmethod
    def head(self, x: Tensor) -> Tensor:
        """Logits [..., vocabulary] of a residual stream x [..., width]: final norm and unembedding."""

    @property
    @abstractmethod
    def unembedding(self) -> Tensor:
        """The head's matrix [vocabulary, width]."""

    @abstractmethod
    def read(self, tokens: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        """Logits [B, T, vocabulary] and the last state, from tokens [B, T]; that given stays as it is."""

    @abstractmethod
    def tap(self, place: Place, edit: Edit) -> Remove:
        """Have edit(value) pass on in the place of each value there, until what is returned is called."""

    def named(self, state: Any) -> Any:
        """The state of a block in the kinds of `recurra.state`, as far as they fit."""
        return state

    def block(self, place: Place) -> Any:
        """The block of a place. Raises ValueError where there is none."""
        if place.block >= len(self.blocks):
            raise ValueError(
                f"block must be below {len(self.blocks)}, the number of blocks, got {place.block}"
            )
        return self.blocks[place.block]


def on_input(module: nn.Module, edit: Edit) -> Remove:
    """Edit the first argument of a module."""
    return module.register_forward_pre_hook(lambda _, args: (edit(args[0]), *args[1:])).remove


def on_output(module: nn.Module, edit: Edit) -> Remove:
    """Edit what a module returns."""
    return module.register_forward_hook(lambda _module, _args, out: edit(out)).remove


# Where a block's layer is read, as the first argument of a module that forward and step call alike. An sLSTM
# block has no such module: there it is what is added to the residual stream.
_LAYERS: dict[type[nn.Module], tuple[Callable[[nn.Module, Edit], Remove], str]] = {
    MinRNNBlock: (on_input, "out"),
    AarenBlock: (on_input, "out"),
    S4Block: (on_input, "out"),
    TransformerBlock: (on_input, "out"),
    MambaBlock: (on_input, "out_proj"),
    MLSTMBlock: (on_input, "down"),
    XLSTMLargeBlock: (on_input, "down"),
    RWKV4Block: (on_input, "time_mix.out"),
    RWKV5Block: (on_input, "time_mix.out"),
    SLSTMBlock: (on_output, "head_norm"),
}


class _Step:
    """A block's step and the edits of what it gives: torch's hooks know of forward alone.

    It stands in the block's own dictionary, in front of the method, as long as there are edits.
    """

    def __init__(self, block: nn.Module) -> None:
        self._block, self._edits, self.running = block, list[Edit](), False

    def __call__(self, x_t: Tensor, state: Any = None) -> Any:
        block: Any = self._block
        self.running = True
        try:
            out = type(block).step(block, x_t, state)
        finally:
            self.running = False
        for edit in self._edits:
            out = edit(out)
        return out

    @classmethod
    def of(cls, block: nn.Module, edit: Edit) -> "_Step":
        """That of a block, with one edit more."""
        step: _Step = vars(block).setdefault("step", cls(block))
        step._edits.append(edit)
        return step

    def remove(self, edit: Edit) -> None:
        """The edit is no more; with the last one the block has its own step again."""
        self._edits.remove(edit)
        if not self._edits:
            del vars(self._block)["step"]


def _both(*removes: Remove) -> Remove:
    stack = ExitStack()
    for remove in removes:
        stack.callback(remove)
    return stack.close


def _tap_ends(block: nn.Module, edit: Edit) -> Remove:
    """Edit (y, state) as a block gives them."""
    step = _Step.of(block, edit)
    # A first step may be a forward of one token.
    remove = on_output(block, lambda out: out if step.running else edit(out))
    return _both(remove, partial(step.remove, edit))


def _tap_layer(block: nn.Module, edit: Edit) -> Remove:
    if type(block) not in _LAYERS:
        raise ValueError(f"block must be of the table for its layer to be known, got {type(block).__name__}")
    tap, name = _LAYERS[type(block)]

    def unchanged(out: Any) -> Any:
        return out

    def alike(value: Tensor) -> Tensor:
        """In a step [B, D], also in one that is a forward of one token."""
        as_step = step.running and value.ndim == 3
        new: Tensor = edit(value[:, 0])[:, None] if as_step else edit(value)
        return new

    step = _Step.of(block, unchanged)
    return _both(tap(block.get_submodule(name), alike), partial(step.remove, unchanged))


class Own(Subject):
    """A `SequenceModel`."""

    def __init__(self, model: SequenceModel) -> None:
        self._model, self.blocks = model, model.blocks

    def head(self, x: Tensor) -> Tensor:
        logits: Tensor = self._model.head(x)
        return logits

    @property
    def unembedding(self) -> Tensor:
        return wide(self._model.head.matrix)

    def read(self, tokens: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        logits, state = self._model(tokens, state)
        return logits, state

    def tap(self, place: Place, edit: Edit) -> Remove:
        block = self.block(place)
        if place.kind == "layer":
            return _tap_layer(block, edit)

        def part(out: tuple[Any, Any]) -> tuple[Any, Any]:
            y, state = out
            return (edit(y), state) if place.kind == "block" else (y, edit(state))

        return _tap_ends(block, part)
