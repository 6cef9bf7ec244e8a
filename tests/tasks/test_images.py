"""Sequential images: read in their order, split, shuffled alike each time; files that are none are named."""

import doctest
import gzip
import struct

import numpy as np
import pytest
import torch

from recurra.models import language_model
from recurra.models.cross_entropy import IGNORED
from recurra.tasks import images
from recurra.tasks.images import ImageFiles, mnist
from recurra.tasks.table import parse


def _idx(array):
    """As MNIST's page describes the format."""
    axes = b"".join(struct.pack(">I", n) for n in array.shape)
    return bytes([0, 0, 8, array.ndim]) + axes + array.tobytes()


def _drawn(count, side=3):
    draw = np.random.default_rng(count)
    return draw.integers(0, 256, (count, side, side), np.uint8), draw.integers(0, 10, count, np.uint8)


@pytest.fixture(params=["plain", "packed", "npz"])
def folder(tmp_path, request):
    """A set of 30 images to train on and 7 to test on."""
    root = tmp_path / "mnist"
    root.mkdir()
    for part, count in (("train", 30), ("t10k", 7)):
        x, y = _drawn(count)
        if request.param == "npz" and part == "train":
            np.savez(root / "some.npz", x=x.reshape(count, -1), y=y)
            continue
        for name, array in ((f"{part}-images-idx3-ubyte", x), (f"{part}-labels-idx1-ubyte", y)):
            data = _idx(array)
            if request.param == "plain":
                (root / name).write_bytes(data)
            else:
                (root / f"{name}.gz").write_bytes(gzip.compress(data))
    return root


def test_worked_example():
    done = doctest.testmod(images)
    assert done.attempted
    assert not done.failed


def test_files_are_what_was_written(folder, tmp_path):
    data = parse("images").prepare(str(folder), tmp_path / "run", "byte", 0, None)
    x, y = (np.concatenate(part) for part in zip(_drawn(30), _drawn(7), strict=True))
    assert np.array_equal(data.pixels, x.reshape(37, 9))
    assert np.array_equal(data.labels, y)
    assert (data.split, data.end, data.white) == (27, 30, 255)
    again = parse("images").load(tmp_path / "run")
    assert again.source == data.source == str(folder)
    assert np.array_equal(again.pixels, mnist(str(folder)).pixels)


def test_an_epoch_reads_each_image_once(folder):
    data = mnist(str(folder))
    feed = data.feed(9, 784, 3, carry=False)
    epochs = [[feed.batch(step) for step in range(3 * e, 3 * e + 3)] for e in range(2)]
    for epoch in epochs:
        inputs = torch.cat([x for x, _ in epoch])
        assert inputs.shape == (27, 9, 1)
        assert inputs.dtype == torch.float32
        read = (inputs[..., 0] * 255).round().to(torch.uint8).numpy()
        assert sorted(map(bytes, read)) == sorted(map(bytes, data.pixels[:27]))
        answers = {bytes(x): y for x, y in zip(data.pixels, data.labels, strict=True)}
        targets = torch.cat([y for _, y in epoch])
        assert (targets[:, :-1] == IGNORED).all()
        assert [answers[bytes(x)] for x in read] == targets[:, -1].tolist()
    assert not epochs[0][0][0].equal(epochs[1][0][0])
    assert feed.batch(4)[0].equal(data.feed(9, 784, 3, carry=False).batch(4)[0])
    assert not feed.batch(4)[0].equal(data.feed(9, 784, 2, carry=False).batch(4)[0])
    assert feed.fresh(1)
    with pytest.raises(ValueError, match="carry"):
        data.feed(9, 784, 3, carry=True)


def test_no_more_than_the_context_is_read(folder):
    data = mnist(str(folder))
    inputs, targets = data.feed(9, 4, 3, carry=False).batch(0)
    assert inputs.shape == (9, 4, 1)
    assert (targets[:, -1] != IGNORED).all()
    model = language_model("mingru", 10, 4, 1, channels=1).eval()
    found = data.scores(model, 4)
    assert list(found) == ["accuracy@4", "scaled_accuracy@4", "whole@4", "loss@4"]
    assert list(data.scores(model, 4, [2, 784]))[::4] == ["accuracy@2", "accuracy@9"]
    x = torch.from_numpy(data.pixels[30:, :4] / np.float32(255))[..., None]
    right = model(x)[0][:, -1].argmax(-1) == torch.from_numpy(data.labels[30:])
    assert found["accuracy@4"] == pytest.approx(right.double().mean().item())
    assert data.report(model, 4) == [f"length       4  {_said(found)}  (7 answers)"]
    x = torch.from_numpy(data.pixels[27:29] / np.float32(255))[..., None]
    right = model(x)[0][:, -1].argmax(-1) == torch.from_numpy(data.labels[27:29])
    assert data.score(model, 784, 2) == pytest.approx(right.double().mean().item())


def _said(found):
    return "  ".join(f"{name.removesuffix('@4')} {value:.4f}" for name, value in found.items())


def test_digits_are_built_in(tmp_path):
    pytest.importorskip("sklearn")
    data = ImageFiles().prepare(None, tmp_path)
    assert data.pixels.shape == (1797, 64)
    assert data.pixels.max() == data.white == 16
    assert (data.split, data.end) == (1294, 1437)
    assert set(data.labels) == set(range(10))


def test_without_scikit_learn_its_extra_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "sklearn.datasets", None)
    with pytest.raises(RuntimeError, match=r"recurra\[bench\]"):
        ImageFiles().prepare(None, tmp_path)


@pytest.mark.parametrize(
    ("name", "content", "named"),
    [
        ("train-images-idx3-ubyte", None, "holds no .*train-images"),
        ("t10k-labels-idx1-ubyte", None, "holds no .*t10k-labels"),
        ("train-images-idx3-ubyte", b"", "is no IDX file"),
        ("train-images-idx3-ubyte", b"\0\0\x08\x03\0\0", "is no IDX file"),
        ("train-images-idx3-ubyte", b"\0\0\x08\x01\0\0\0\x05abc", "is no IDX file"),
        ("train-images-idx3-ubyte", b"\0\0\x0d\x01\0\0\0\x03abc", "is no IDX file"),
        ("train-labels-idx1-ubyte", b"\0\0\x08\x01\0\0\0\x01\x01", "as many classes"),
        ("t10k-labels-idx1-ubyte", b"\0\0\x08\x01\0\0\0\x07" + b"\x0b" * 7, "classes of 0 to 9"),
        ("t10k-images-idx3-ubyte", _idx(_drawn(7, 2)[0]), "have 9 pixels, 4 to test"),
    ],
)
@pytest.mark.parametrize("folder", ["plain"], indirect=True)
def test_files_that_are_none_are_named(folder, tmp_path, name, content, named):
    (folder / name).unlink()
    if content is not None:
        (folder / name).write_bytes(content)
    with pytest.raises((ValueError, FileNotFoundError), match=named) as fault:
        ImageFiles().prepare(str(folder), tmp_path)
    assert str(folder) in str(fault.value)


def test_damage_is_named(tmp_path):
    pytest.importorskip("sklearn")
    ImageFiles().prepare(None, tmp_path)
    path = tmp_path / "images.npz"
    data = path.read_bytes()
    for damaged in (b"", data[:-99], data[:9000] + b"xyz" + data[9003:]):
        path.write_bytes(damaged)
        with pytest.raises(ValueError, match="is damaged") as fault:
            ImageFiles().load(tmp_path)
        assert str(path) in str(fault.value)
