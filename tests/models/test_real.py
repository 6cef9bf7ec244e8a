"""A model that reads real numbers in the place of tokens, and one whose answer is a number."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import recurra
from recurra.models import SequenceModel
from tools import close, wake

BATCH, TIME, CHANNELS = 3, 7, 2


def _model(channels: int = CHANNELS, outputs: int = 1, **how: Any) -> SequenceModel:
    return wake(recurra.language_model("mingru", outputs, 8, 2, channels=channels, **how))


def _inputs(channels: int = CHANNELS) -> Tensor:
    return torch.randn(BATCH, TIME, channels)


@pytest.mark.parametrize("channels", [1, CHANNELS])
def test_chunks_and_steps(channels: int) -> None:
    model, x = _model(channels, 5), _inputs(channels)
    want, _ = model(x)
    assert want.shape == (BATCH, TIME, 5)
    first, middle = model(x[:, :3])
    close(torch.cat([first, model(x[:, 3:], middle)[0]], 1), want)
    now = None
    for x_t, y_t in zip(x.unbind(1), want.unbind(1), strict=True):
        y, now = model.step(x_t, now)
        close(y, y_t)


@pytest.mark.parametrize("channels", [0, CHANNELS])
def test_loss_of_numbers(channels: int) -> None:
    """The mean over what is asked, and its gradient; tokens may be answered by a number too."""
    model = _model(channels)
    x = _inputs() if channels else torch.zeros(BATCH, TIME, dtype=torch.int64)
    targets = torch.randn(BATCH, TIME)
    targets[0, 2] = math.nan
    lengths = torch.tensor([TIME, 4, 0])
    asked = (torch.arange(TIME) < lengths[:, None]) & ~targets.isnan()
    want = torch.nn.functional.mse_loss(model(x, lengths=lengths)[0][..., 0][asked], targets[asked])
    loss, _ = model.loss(x, targets, lengths=lengths)
    close(loss, want)
    parameters = list(model.parameters())
    for p, q in zip(
        torch.autograd.grad(loss, parameters), torch.autograd.grad(want, parameters), strict=True
    ):
        close(p, q)
    assert model.loss(x, torch.full_like(targets, math.nan))[0] == 0


def test_classes_of_numbers() -> None:
    model, targets = _model(outputs=5), torch.randint(5, (BATCH, TIME))
    loss, _ = model.loss(x := _inputs(), targets)
    close(loss, torch.nn.functional.cross_entropy(model(x)[0].flatten(0, 1), targets.flatten()))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_round_trip(dtype: torch.dtype, tmp_path: Path) -> None:
    model = _model(outputs=5).to(dtype)
    model.save_pretrained(tmp_path)
    again = SequenceModel.from_pretrained(tmp_path)
    assert again.config == model.config
    assert again.channels == model.config["channels"] == CHANNELS
    assert again.embed.bias.equal(model.embed.bias)
    assert again(x := _inputs())[0].equal(model.eval()(x)[0])


def test_a_model_of_tokens_has_no_such_key() -> None:
    model = recurra.language_model("mingru", 5, 8, 1)
    assert "channels" not in model.config
    assert SequenceModel.from_config({**model.config, "channels": 0}).config == model.config


def test_errors_name_what_is_wrong() -> None:
    model, tokens = _model(), torch.zeros(BATCH, TIME, dtype=torch.int64)
    with pytest.raises(ValueError, match=r"tokens must be \[batch, time, 2\], got \[3, 7\]"):
        model(tokens)
    with pytest.raises(ValueError, match=r"tokens must be \[batch, time, 2\], got \[3, 7, 1\]"):
        model(_inputs(1))
    with pytest.raises(ValueError, match=r"token must be \[batch, 2\], got \[3\]"):
        model.step(tokens[:, 0])
    with pytest.raises(ValueError, match=r"tokens must be \[batch, time\], got \[3, 7, 2\]"):
        recurra.language_model("mingru", 5, 8, 1)(_inputs())
    with pytest.raises(ValueError, match="targets must be like tokens"):
        model.loss(_inputs(), torch.zeros(BATCH, TIME + 1))
    with pytest.raises(ValueError, match="tied: real numbers"):
        _model(tied=True)
    with pytest.raises(ValueError, match="channels 0, got 1, 8 and -1"):
        _model(-1)
