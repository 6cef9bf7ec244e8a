"""The two losses against one computed in a single piece."""

import math

import numpy as np
import pytest
import torch
from torch.nn.functional import cross_entropy

from recurra.models import language_model
from recurra.tasks import losses
from recurra.tasks.losses import bits, text_loss, windows_loss


@pytest.fixture
def tokens():
    return np.random.default_rng(0).integers(0, 256, 70).astype(np.uint8)


@pytest.fixture
def model():
    return language_model("mingru", width=8, depth=2).eval()


def whole(model, tokens):
    row = torch.from_numpy(tokens.astype(np.int64))[None]
    with torch.no_grad():
        return cross_entropy(model(row[:, :-1])[0][0], row[0, 1:]).item()


def test_the_text_is_read_in_one_piece(model, tokens, monkeypatch):
    monkeypatch.setattr(losses, "CHUNK", 16)
    assert text_loss(model, tokens) == pytest.approx(whole(model, tokens), rel=1e-5)


def test_windows_are_read_apart(model, tokens):
    apart = [whole(model, tokens[i : i + 11]) for i in range(0, 60, 10)]
    assert windows_loss(model, tokens, 10) == pytest.approx(sum(apart) / 6, rel=1e-5)


def test_a_limit_takes_windows_from_end_to_end(model, tokens):
    ends = [whole(model, tokens[i : i + 11]) for i in (0, 50)]
    assert windows_loss(model, tokens, 10, limit=2) == pytest.approx(sum(ends) / 2, rel=1e-5)


def test_a_short_text_is_one_window(model, tokens):
    assert windows_loss(model, tokens[:9], 256) == pytest.approx(whole(model, tokens[:9]), rel=1e-5)


def test_bits():
    assert bits(math.log(256), 1.0) == pytest.approx(8)
    assert bits(math.log(256), 4.0) == pytest.approx(2)
