"""Models of equal size: the width at which one has the parameters of another."""

from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import torch

from recurra.bench.widths import nearest
from recurra.tasks.table import name_of, parse
from recurra.train.config import TrainConfig
from recurra.train.run import build

__all__ = ["TOLERANCE", "frozen", "matched", "parameters"]

# Of a reference's parameters; and multiples of what widths may be, of which kernels like the first ones.
TOLERANCE, STEPS, WIDEST = 0.02, (32, 16, 8, 4, 2, 1), 4096
# Symbols of a text that are not yet counted: bytes, or the characters of tiny Shakespeare; pieces are told.
SYMBOLS = {"byte": 256, "char": 65}

Options = tuple[tuple[str, Any], ...]


@lru_cache(maxsize=4096)
def parameters(options: Options) -> int:
    """Of the model that these options of TrainConfig make."""
    config = TrainConfig(**dict(options))
    with torch.device("meta"):
        return sum(p.numel() for p in build(config, *_sizes(config)).parameters())


@lru_cache(maxsize=256)
def matched(options: Options, reference: Options) -> int:
    """The width at which the model of these options has as many parameters as that of the reference.

    The roundest within two per cent. Raises ValueError where there is none.
    """
    want = parameters(reference)

    def sized(width: int) -> int:
        return parameters(frozen({**dict(options), "width": width}))

    for step in STEPS:
        width = nearest(range(step, WIDEST, step), sized, want)
        if abs(sized(width) / want - 1) <= TOLERANCE:
            return width
    raise ValueError(f"no width of {dict(options)['model']} has {want:,} parameters")


def frozen(options: Mapping[str, Any]) -> Options:
    """As what functions remember their values by."""
    return tuple(sorted(options.items()))


def _sizes(config: TrainConfig) -> tuple[int, int]:
    """Symbols and channels of the task."""
    if name_of(config.task) in {"text", "translation"}:
        edge = int(parse(config.task).paired)
        return SYMBOLS.get(config.vocabulary, config.tokens) + edge, 0
    kind: Any = parse(config.task)
    return kind.size, kind.channels
