"""Sequential images (arXiv 1504.00941, section 4.2): the class of an image that is read pixel by pixel.

Rows from the top, a grey value in [0, 1] a step; the class is asked for at the last pixel.

>>> feed = Shuffled(np.array([[0, 255, 51, 0]], np.uint8), np.array([7]), 255, rows=1, context=784, seed=0)
>>> inputs, targets = feed.batch(0)
>>> inputs.squeeze(-1)
tensor([[0.0000, 1.0000, 0.2000, 0.0000]])
>>> targets
tensor([[-100, -100, -100,    7]])
"""

import gzip
import struct
import zipfile
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from recurra.extras import need
from recurra.models.cross_entropy import IGNORED
from recurra.tasks.answers import Answered, Answers, judge
from recurra.tasks.windows import order

__all__ = ["ImageFiles", "Images", "Shuffled", "digits", "mnist"]

FILE = "images.npz"
CLASSES = 10
# What numpy raises for an archive that is none, or damaged.
DAMAGE = (KeyError, ValueError, TypeError, EOFError, zlib.error, zipfile.BadZipFile)
# The names that MNIST's files have where they are.
IMAGES, LABELS = "*{}-images?idx3-ubyte*", "*{}-labels?idx1-ubyte*"

Pixels = NDArray[np.uint8]
Labels = NDArray[np.int64]


@dataclass(frozen=True)
class Shuffled:
    """Images [N, T] and classes [N], all of them once an epoch, each time in another order."""

    pixels: Pixels
    labels: Labels
    white: int
    rows: int
    context: int
    seed: int

    def fresh(self, step: int) -> bool:
        """True: no image goes on from another."""
        return True

    def batch(self, step: int) -> tuple[Tensor, Tensor]:
        """Inputs [rows, T, 1] and targets [rows, T]."""
        items = np.arange(step * self.rows, (step + 1) * self.rows)
        epochs, places = np.divmod(items, len(self.labels))
        count = len(self.labels)
        chosen = [order(self.seed, int(e), count)[p] for e, p in zip(epochs, places, strict=True)]
        return sequences(self.pixels[chosen, : self.context], self.labels[chosen], self.white)


def sequences(pixels: Pixels, labels: Labels, white: int) -> tuple[Tensor, Tensor]:
    """Of images [N, T] and classes [N] inputs [N, T, 1] and targets [N, T]."""
    targets = np.full(pixels.shape, IGNORED)
    targets[:, -1] = labels
    return torch.from_numpy(pixels.astype(np.float32)[..., None] / white), torch.from_numpy(targets)


@dataclass(frozen=True)
class Images(Answered):
    """Images [N, T], their classes, and the grey value that is 1; the first `split` are to train on, those
    up to `end` to validate on, the others to test on. Of each the first `context` pixels are read.
    """

    pixels: Pixels
    labels: Labels
    white: int
    split: int
    end: int
    source: str

    name: ClassVar[str] = "images"
    size: ClassVar[int] = CLASSES
    channels: ClassVar[int] = 1
    paired: ClassVar[bool] = False
    chance: ClassVar[float] = 1 / CLASSES

    @staticmethod
    def load(path: Path) -> "Images":
        """What `save` wrote. Raises ValueError, naming the file, where it is damaged."""
        try:
            with path.open("rb") as f, np.load(f, allow_pickle=False) as file:
                white, split, end = map(int, file["numbers"])
                return Images(file["pixels"], file["labels"], white, split, end, str(file["source"]))
        except DAMAGE as e:
            raise ValueError(f"{path} is damaged: {e}") from e

    def save(self, path: Path) -> None:
        """Write all of it, whole or not at all."""
        path.parent.mkdir(parents=True, exist_ok=True)
        draft, numbers = path.with_name(f".{path.name}"), [self.white, self.split, self.end]
        with draft.open("wb") as f:
            np.savez_compressed(
                f, pixels=self.pixels, labels=self.labels, numbers=numbers, source=self.source
            )
        draft.replace(path)

    def feed(self, rows: int, context: int, seed: int, carry: bool) -> Shuffled:
        """Raises ValueError where the state is to be carried."""
        if carry:
            raise ValueError("carry: no image goes on from another")
        pixels, labels = self.pixels[: self.split], self.labels[: self.split]
        return Shuffled(pixels, labels, self.white, rows, context, seed)

    def score(self, model: Any, context: int, count: int) -> float:
        """Share of right answers, of the first `count` images to validate on."""
        return self._judge(model, slice(self.split, min(self.split + count, self.end)), context).accuracy

    def judged(self, model: Any, context: int, lengths: Sequence[int] = ()) -> dict[str, Answers]:
        """On the images to test on, after so many pixels: unless told after those of a context."""
        steps = sorted({min(length, self.pixels.shape[1]) for length in lengths or [context]})
        return {str(n): self._judge(model, slice(self.end, None), n) for n in steps}

    def _judge(self, model: Any, part: slice, context: int) -> Answers:
        return judge(model, [sequences(self.pixels[part, :context], self.labels[part], self.white)])


@dataclass(frozen=True)
class ImageFiles:
    """Images of a folder (`mnist`), without one scikit-learn's digits; a copy is kept with the run."""

    context: ClassVar[int] = 784
    size: ClassVar[int] = CLASSES
    channels: ClassVar[int] = 1
    paired: ClassVar[bool] = False
    kind: ClassVar[str] = "byte"

    def prepare(self, source: str | None, run: Path, *_: Any) -> Images:
        """Raises FileNotFoundError or ValueError for what is not there, or holds no images."""
        (digits() if source is None else mnist(source)).save(run / FILE)
        return self.load(run)

    def load(self, run: Path) -> Images:
        """Raises ValueError where the copy is damaged."""
        return Images.load(run / FILE)

    def read(self, source: str, *_: Any) -> Images:
        """Those of another folder."""
        return mnist(source)


def digits() -> Images:
    """1,797 digits of 8 x 8 pixels: the first 1,437 to train on, a tenth of them to validate on.

    Raises RuntimeError where scikit-learn is missing.
    """
    data = need("sklearn.datasets", "bench").load_digits()
    pixels, labels = data.data.astype(np.uint8), data.target.astype(np.int64)
    return Images(pixels, labels, 16, 1437 - 1437 // 10, 1437, "scikit-learn's digits")


def mnist(folder: str) -> Images:
    """MNIST in its IDX files, packed or not; an .npz of x [N, T] and y [N] may stand for those to train on.

    The last tenth of those to train on is to validate on. Raises FileNotFoundError for a part that is not
    there, ValueError for a file that is none of this.
    """
    root = Path(folder)
    packed = any(root.glob("*.npz")) and not any(root.glob(IMAGES.format("train")))
    train, test = _archive(root) if packed else _pair(root, "train"), _pair(root, "t10k")
    if train[0].shape[1] != test[0].shape[1]:
        raise ValueError(
            f"{folder}: images to train on have {train[0].shape[1]} pixels, {test[0].shape[1]} to test"
        )
    pixels, labels = np.concatenate([train[0], test[0]]), np.concatenate([train[1], test[1]])
    end = len(train[1])
    return Images(pixels, labels, 255, end - end // 10, end, folder)


def _archive(root: Path) -> tuple[Pixels, Labels]:
    path = _one(root, "*.npz")
    try:
        with path.open("rb") as f, np.load(f, allow_pickle=False) as file:
            x, y = file["x"], file["y"]
    except DAMAGE as e:
        raise ValueError(f"{path} holds no images x with classes y: {e}") from e
    return _checked(path, x.reshape(len(x), -1), y)


def _pair(root: Path, part: str) -> tuple[Pixels, Labels]:
    path = _one(root, IMAGES.format(part))
    images, labels = _idx(path), _idx(_one(root, LABELS.format(part)))
    return _checked(path, images.reshape(len(images), -1), labels)


def _checked(path: Path, pixels: Pixels, labels: NDArray[Any]) -> tuple[Pixels, Labels]:
    if pixels.dtype != np.uint8 or len(pixels) != len(labels) or not len(labels) or labels.max() >= CLASSES:
        raise ValueError(f"{path} must hold bytes, and as many classes of 0 to 9 as images")
    return pixels, labels.astype(np.int64)


def _one(root: Path, pattern: str) -> Path:
    found = next(iter(sorted(root.glob(pattern))), None)
    if found is None:
        raise FileNotFoundError(f"{root} holds no {pattern}")
    return found


def _idx(path: Path) -> Pixels:
    """An array of bytes: 0, 0, 8, the number of axes, the axes as big-endian integers, the bytes."""
    try:
        data = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
        axes = struct.unpack_from(f">{data[3]}I", data, 4)
        if data[:3] != b"\0\0\x08":
            raise ValueError(f"begins with {data[:3]!r}")
        return np.frombuffer(data, np.uint8, offset=4 + 4 * len(axes)).reshape(axes)
    except (ValueError, struct.error, IndexError, EOFError, gzip.BadGzipFile) as e:
        raise ValueError(f"{path} is no IDX file of bytes: {e}") from e
