"""The tasks of the swap table: small, real or exact, each a function that gives its data and its measure.

`adding`  x_t = (value in [0, 1], marker); the answer is the sum of the two marked values. Mean squared
          error; always answering 1 errs by 0.167 (Hochreiter & Schmidhuber 1997).
`digits`  scikit-learn's 8x8 handwritten digits, one pixel a step, 64 steps; the first 1,437 to train on.
`bytes`   the next byte of Python's own standard library source, 256 steps; every tenth file is held out.
`vowels`  JapaneseVowels (UEA archive): 12 channels, 7 to 29 steps, nine speakers; the archive's own split.
"""

import math
import os
import sysconfig
from collections.abc import Callable, Sequence
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Generator, Tensor, nn
from torch.nn.functional import cross_entropy
from torch.nn.utils.rnn import pad_sequence

from recurra.extras import need

EMBED = 64


class Batch(NamedTuple):
    """x [B, T, ...], target, and lengths [B] where rows end at different steps."""

    x: Tensor
    target: Tensor
    lengths: Tensor | None = None


class Task(NamedTuple):
    """Data and measure. `hidden` is the width of the nn.GRU and nn.LSTM that others are matched to."""

    embed: Callable[[], nn.Module]
    outputs: int
    every_step: bool
    draw: Callable[[Generator], Batch]
    test: Sequence[Batch]
    loss: Callable[[Tensor, Tensor], Tensor]
    quality: Callable[[Tensor, Tensor], Tensor]
    metric: str
    hidden: int
    steps: int
    rate: float


def squared_error(y: Tensor, target: Tensor) -> Tensor:
    """Mean squared error of one number."""
    return (y[..., 0] - target).square().mean()


def entropy(y: Tensor, target: Tensor) -> Tensor:
    """Mean cross-entropy in nats."""
    return cross_entropy(y.flatten(0, -2), target.flatten())


def bits(y: Tensor, target: Tensor) -> Tensor:
    """Mean cross-entropy in bits."""
    return entropy(y, target) / math.log(2)


def accuracy(y: Tensor, target: Tensor) -> Tensor:
    """Share of right answers in per cent."""
    return 100 * (y.argmax(-1) == target).float().mean()


def rows(x: Tensor, target: Tensor, batch: int, generator: Generator, lengths: Tensor | None = None) -> Batch:
    """A batch of rows drawn with replacement."""
    i = torch.randint(len(x), (batch,), generator=generator)
    return Batch(x[i], target[i], None if lengths is None else lengths[i])


def adding() -> Task:
    """The adding problem over 100 steps: one marker in each half."""
    half, batch = 50, 32

    def draw(generator: Generator) -> Batch:
        value = torch.rand(batch, 2 * half, generator=generator)
        marked = torch.randint(half, (batch, 2), generator=generator) + torch.tensor([0, half])
        marker = torch.zeros_like(value).scatter_(1, marked, 1.0)
        return Batch(torch.stack([value, marker], -1), (value * marker).sum(1))

    held_out = Generator().manual_seed(2**31)
    return Task(
        embed=partial(nn.Linear, 2, EMBED),
        outputs=1,
        every_step=False,
        draw=draw,
        test=[draw(held_out) for _ in range(32)],
        loss=squared_error,
        quality=squared_error,
        metric="mean squared error",
        hidden=64,
        steps=2000,
        rate=3e-3,
    )


def digits() -> Task:
    """Handwritten digits read pixel by pixel."""
    data = need("sklearn.datasets", "bench").load_digits()
    x = torch.tensor(data.data, dtype=torch.float32)[..., None] / 16
    y = torch.tensor(data.target)
    return Task(
        embed=partial(nn.Linear, 1, EMBED),
        outputs=10,
        every_step=False,
        draw=lambda generator: rows(x[:1437], y[:1437], 32, generator),
        test=[Batch(x[1437:], y[1437:])],
        loss=entropy,
        quality=accuracy,
        metric="accuracy, %",
        hidden=64,
        steps=2500,
        rate=3e-3,
    )


def library_source() -> tuple[Tensor, Tensor]:
    """Bytes of Python's standard library without tests and installed packages; every tenth file held out."""
    root = Path(sysconfig.get_paths()["stdlib"])
    left_out = {"test", "tests", "idle_test", "site-packages", "dist-packages", "__pycache__"}
    files = [f for f in sorted(root.rglob("*.py")) if not left_out & set(f.relative_to(root).parts)]
    if not files:
        raise RuntimeError(f"no standard library source under {root}")
    test = set(files[::10])
    chosen = [f for f in files if f not in test], sorted(test)
    train, held_out = (bytearray().join(f.read_bytes() for f in part) for part in chosen)
    return torch.frombuffer(train, dtype=torch.uint8), torch.frombuffer(held_out, dtype=torch.uint8)


def windows(text: Tensor, starts: Tensor, time: int) -> Batch:
    """Windows of `time` bytes and the byte that follows each."""
    window = text[starts[:, None] + torch.arange(time + 1)].long()
    return Batch(window[:, :-1], window[:, 1:])


def next_byte() -> Task:
    """Next-byte prediction on Python source."""
    train, held_out = library_source()
    batch, time, tests = 16, 256, 16

    def draw(generator: Generator) -> Batch:
        return windows(train, torch.randint(len(train) - time, (batch,), generator=generator), time)

    starts = torch.linspace(0, len(held_out) - time - 1, batch * tests).long()
    return Task(
        embed=partial(nn.Embedding, 256, EMBED),
        outputs=256,
        every_step=True,
        draw=draw,
        test=[windows(held_out, s, time) for s in starts.chunk(tests)],
        loss=entropy,
        quality=bits,
        metric="bits per byte",
        hidden=128,
        steps=800,
        rate=3e-3,
    )


def read_ts(path: Path) -> tuple[list[Tensor], list[str]]:
    """Series [T, C] and labels of a .ts file of the UEA archive: channels split by ':', the label last."""
    lines = [line.strip() for line in path.read_text(encoding="utf-8").splitlines()]
    found = [i for i, line in enumerate(lines) if line.lower() == "@data"]
    if not found:
        raise ValueError(f"{path} is not a .ts file: it has no line @data")
    series, labels = [], []
    for line in filter(None, lines[found[0] + 1 :]):
        *channels, label = line.split(":")
        series.append(torch.tensor([[float(v) for v in channel.split(",")] for channel in channels]).T)
        labels.append(label)
    return series, labels


def vowels_folder() -> Path | None:
    """Where JapaneseVowels lies: under RECURRA_DATA, or in aeon where that is installed."""
    aeon = find_spec("aeon")
    places = [
        Path(where) / "datasets/data/JapaneseVowels"
        for where in (aeon and aeon.submodule_search_locations) or []
    ]
    if "RECURRA_DATA" in os.environ:
        places.insert(0, Path(os.environ["RECURRA_DATA"]) / "tsc")
    return next((place for place in places if (place / "JapaneseVowels_TRAIN.ts").exists()), None)


def vowels() -> Task:
    """Who speaks? Series of different lengths, through `lengths` or PackedSequence."""
    folder = vowels_folder()
    if folder is None:
        raise ValueError(
            "vowels needs aeon, or RECURRA_DATA naming a folder with tsc/JapaneseVowels_TRAIN.ts"
        )
    parts = []
    for part in ("TRAIN", "TEST"):
        series, labels = read_ts(folder / f"JapaneseVowels_{part}.ts")
        y = torch.tensor([int(label) - 1 for label in labels])
        parts.append((pad_sequence(series, batch_first=True), y, torch.tensor([len(s) for s in series])))
    (x, y, lengths), test = parts
    return Task(
        embed=partial(nn.Linear, 12, EMBED),
        outputs=9,
        every_step=False,
        draw=lambda generator: rows(x, y, 32, generator, lengths),
        test=[Batch(*test)],
        loss=entropy,
        quality=accuracy,
        metric="accuracy, %",
        hidden=64,
        steps=600,
        rate=3e-3,
    )


TASKS: dict[str, Callable[[], Task]] = {
    "adding": adding,
    "digits": digits,
    "bytes": next_byte,
    "vowels": vowels,
}


def default_tasks() -> list[str]:
    """All tasks, without the vowels where their files are not there."""
    return [name for name in TASKS if name != "vowels" or vowels_folder()]
