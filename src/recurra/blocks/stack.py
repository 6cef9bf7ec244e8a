"""Blocks one behind the other: by their names, with one state for each of them."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from itertools import cycle, islice
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from recurra.blocks.table import BLOCKS, configurable, parse

__all__ = ["STACKS", "Stack", "State", "make", "run", "step", "turn", "whole_turns"]

# One state a block.
State = tuple[Any, ...]
# Names of models that are blocks in turn, and their pattern unless another is given.
STACKS: dict[str, tuple[tuple[str, ...], str]] = {"xlstm": (("mlstm", "slstm"), "7:1")}
_DEPTH = 6


def turn(blocks: str | Sequence[str], pattern: str | None = None) -> list[str]:
    """The names of `blocks`, each as often as `pattern` says: of mlstm and slstm, 7:1, eight names.

    xlstm stands for these two, and 7:1 where there is no pattern: xLSTM[a:b] of arXiv 2405.04517, section
    2.4. Departs from its models in where an sLSTM stands, which is last in each turn; the authors placed
    theirs by hand: 3, 5, 7, 40, 42 and 44 of 48. Raises ValueError where pattern is not one number a name.
    """
    names, usual = STACKS.get(_alone(blocks), (blocks, None))
    names, pattern = [names] if isinstance(names, str) else list(names), usual if pattern is None else pattern
    if pattern is None:
        return names
    counts = [_count(word) for word in pattern.split(":")]
    if len(counts) != len(names) or min(counts) < 0 or not sum(counts):
        raise ValueError(f"pattern must be one number for each of {', '.join(names)}, got {pattern!r}")
    return [name for name, count in zip(names, counts, strict=True) for _ in range(count)]


def _alone(blocks: str | Sequence[str]) -> str:
    """The one name, or none."""
    names = [blocks] if isinstance(blocks, str) else blocks
    return names[0] if len(names) == 1 else ""


def _count(word: str) -> int:
    return int(word) if word.isdecimal() else -1


def whole_turns(names: Sequence[str]) -> int:
    """The least depth of whole turns that is not less than the usual one, 6."""
    return len(names) * -(-_DEPTH // len(names))


def make(
    blocks: str | Sequence[str],
    width: int,
    depth: int | None = None,
    options: Mapping[str, Any] | None = None,
    pattern: str | None = None,
) -> list[nn.Module]:
    """`depth` blocks by one name, or by a list of names taken again and again, with a pattern as in `turn`.

    depth None: once through the list, or else whole turns, at least 6; options: fields of their configs, for
    each block that has them. Raises ValueError that names the argument.
    """
    names, listed = turn(blocks, pattern), not (isinstance(blocks, str) or pattern)
    depth = (len(names) if listed else whole_turns(names)) if depth is None else depth
    if not listed and depth % len(names):
        raise ValueError(f"depth must be a multiple of {len(names)}, one turn of the blocks, got {depth}")
    given = dict(options or {})
    if placed := {"index", "depth"} & given.keys():
        raise ValueError(f"options: {placed.pop()} follows from where a block stands")
    if not names or depth < len(names):
        raise ValueError(f"depth must be at least the number of blocks named, {len(names)}, got {depth}")
    places = enumerate(islice(cycle(names), depth))
    return [_named(name, width, given | _place(name, i, depth), names) for i, name in places]


def _place(name: str, index: int, depth: int) -> dict[str, int]:
    """Where in the stack a block stands, if its kind depends on that."""
    known = configurable(BLOCKS[name]) if name in BLOCKS else ()
    return {key: value for key, value in (("index", index), ("depth", depth)) if key in known}


def _named(name: str, width: int, options: Mapping[str, Any], names: Sequence[str]) -> nn.Module:
    """A block with those of the options that it has; each must be known to one of `names` at least."""
    for other in names:
        if other not in BLOCKS:
            raise ValueError(f"blocks must be of {', '.join(BLOCKS)}, got {other!r}")
    known = {key for other in names for key in configurable(BLOCKS[other])}
    row, mine = BLOCKS[name], configurable(BLOCKS[name])
    defaults = asdict(row.config(width=width, **row.fixed))
    given = {key: defaults[key] for key in mine}
    # What another block of the model knows is not for this one; what none knows, `parse` refuses.
    given |= {key: value for key, value in options.items() if key in mine or key not in known}
    return row.block(parse(row.config, given, row.fixed))


def _states(blocks: Any, state: State | None) -> Sequence[Any]:
    if state is None:
        return [None] * len(blocks)
    if len(state) != len(blocks):
        raise ValueError(f"state must be of {len(blocks)} blocks, got {len(state)}")
    return state


def run(
    blocks: Any,
    x: Tensor,
    state: State | None,
    reset: Tensor | None,
    lengths: Tensor | None,
    checkpointing: bool = False,
) -> tuple[Tensor, State]:
    """x [B, T, width] through all blocks; checkpointing: each keeps its input alone and is computed twice."""
    ends = []
    for block, begin in zip(blocks, _states(blocks, state), strict=True):
        if checkpointing and torch.is_grad_enabled():
            x, end = checkpoint(block, x, begin, reset, lengths, use_reentrant=False)
        else:
            x, end = block(x, begin, reset, lengths)
        ends.append(end)
    return x, tuple(ends)


def step(blocks: Any, x_t: Tensor, state: State | None) -> tuple[Tensor, State]:
    """One step through all blocks, x_t [B, width]."""
    ends = []
    for block, begin in zip(blocks, _states(blocks, state), strict=True):
        x_t, end = block.step(x_t, begin)
        ends.append(end)
    return x_t, tuple(ends)


class Stack(nn.Module):
    """out, h_n = stack(x, h_0): blocks of the table in the place of nn.GRU(width, width).

    blocks: a name of `recurra.blocks.BLOCKS` or a list of them, `depth`, `options` and `pattern` as in
    `recurra.language_model`. x [T, B, width], or [B, T, width] with batch_first, or [T, width]; h_n, and
    h_0 (None: a fresh start), are a tuple of the blocks' own states, batch first. lengths [B], and reset in
    the layout of x, as in `ops.masks`. Raises ValueError that names the argument.
    """

    # A ModuleList of blocks: torch's type forgets of what.
    blocks: Any

    def __init__(
        self,
        blocks: str | Sequence[str],
        width: int,
        depth: int | None = None,
        *,
        batch_first: bool = False,
        options: Mapping[str, Any] | None = None,
        pattern: str | None = None,
    ) -> None:
        super().__init__()
        self.width, self.batch_first = width, batch_first
        self.blocks = nn.ModuleList(make(blocks, width, depth, options, pattern))

    def forward(
        self,
        x: Tensor,
        h_0: State | None = None,
        *,
        lengths: Tensor | None = None,
        reset: Tensor | None = None,
    ) -> tuple[Tensor, State]:
        self._check(x, reset)
        single = x.ndim == 2
        swap = not (single or self.batch_first)
        x, reset = self._batched(x, single, swap), self._batched(reset, single, swap)
        y, h_n = run(self.blocks, x, h_0, reset, lengths)
        y = y[0] if single else y
        return y.transpose(0, 1) if swap else y, h_n

    def step(self, x_t: Tensor, h: State | None = None) -> tuple[Tensor, State]:
        """One step: y_t [B, width] and the state, from x_t [B, width]."""
        return step(self.blocks, x_t, h)

    def _check(self, x: Tensor, reset: Tensor | None) -> None:
        axes = "batch, time" if self.batch_first else "time, batch"
        if not isinstance(x, Tensor):
            raise TypeError(f"x must be a tensor, got {type(x).__name__}: pad it, and give its lengths")
        if x.ndim not in (2, 3) or x.shape[-1] != self.width:
            want = f"[{axes}, {self.width}] or [time, {self.width}]"
            raise ValueError(f"x must be {want}, got {list(x.shape)}")
        if reset is not None and reset.shape != x.shape[:-1]:
            raise ValueError(f"reset must be {list(x.shape[:-1])}, as x, got {list(reset.shape)}")

    @staticmethod
    def _batched(x: Any, single: bool, swap: bool) -> Any:
        if x is None:
            return None
        return x[None] if single else x.transpose(0, 1) if swap else x
