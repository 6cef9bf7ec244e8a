"""Mamba beside transformers' mixer and mambapy's block with the same weights; and how it begins."""

from typing import Any

import pytest
import torch
from mambapy.mamba import MambaConfig as PyConfig
from mambapy.mamba import ResidualBlock
from torch import Tensor, nn
from torch.nn.functional import softplus
from transformers import MambaConfig as TransformersConfig
from transformers.models.mamba.modeling_mamba import MambaModel

from recurra.blocks import MambaBlock, MambaConfig
from tools import close

WIDTH, STATES, TIME = 24, 5, 37


def _transformers(block: MambaBlock) -> tuple[nn.Module, Any]:
    c = block.config
    sizes = {
        "hidden_size": c.width,
        "state_size": c.state,
        "conv_kernel": c.conv,
        "time_step_rank": c.dt_rank,
    }
    model = MambaModel(
        TransformersConfig(vocab_size=1, num_hidden_layers=1, layer_norm_epsilon=1e-6, **sizes)
    )
    model.norm_f = nn.Identity()
    return model.layers[0], lambda x: model(inputs_embeds=x, use_cache=False).last_hidden_state


def _mambapy(block: MambaBlock) -> tuple[nn.Module, Any]:
    c = block.config
    sizes = {"d_model": c.width, "d_state": c.state, "d_conv": c.conv, "dt_rank": c.dt_rank}
    layer = ResidualBlock(PyConfig(n_layers=1, rms_norm_eps=1e-6, **sizes))
    return layer, layer


def _theirs(name: str, p: Tensor) -> tuple[str, Tensor]:
    """Our name of a parameter, and the parameter, as both houses have it."""
    if name.startswith("conv"):
        return name.replace("conv", "mixer.conv1d"), p[:, None] if p.ndim == 2 else p
    return (name if name.startswith("norm") else f"mixer.{name}"), p


@pytest.mark.parametrize("house", [_transformers, _mambapy])
def test_outputs_and_gradients(house: Any) -> None:
    block = MambaBlock(MambaConfig(WIDTH, state=STATES))
    layer, call = house(block)
    layer.load_state_dict(dict(_theirs(name, p) for name, p in block.state_dict().items()))
    x, dy = torch.randn(2, TIME, WIDTH, requires_grad=True), torch.randn(2, TIME, WIDTH)
    (y, _), want = block(x), call(x)
    close(y, want)
    leaves, peers = dict(block.named_parameters()), dict(layer.named_parameters())
    got = torch.autograd.grad(y, [x, *leaves.values()], dy)
    names = [_theirs(name, p)[0] for name, p in leaves.items()]
    grads = torch.autograd.grad(want, [x, *(peers[name] for name in names)], dy)
    for one, other in zip(got, grads, strict=True):
        close(one, other.reshape(one.shape))


def test_it_begins_as_published() -> None:
    block = MambaBlock(MambaConfig(64, dt_min=0.01, dt_max=0.02))
    assert block.config.dt_rank == 4
    close(block.A_log.exp(), torch.arange(1.0, 17).expand(128, 16))
    assert block.D.eq(1).all()
    assert block.dt_proj.weight.abs().max() <= 4**-0.5
    dt = softplus(block.dt_proj.bias)
    assert 0.01 * 0.999 <= dt.min() < dt.max() <= 0.02 * 1.001


@pytest.mark.parametrize(
    ("field", "wrong"),
    [
        ("width", {"width": 0}),
        ("state", {"state": 0}),
        ("conv", {"conv": 0}),
        ("expansion", {"expansion": 0.01}),
        ("rank", {"rank": -1}),
        ("dt_min", {"dt_min": 0.0}),
        ("dt_max", {"dt_max": 0.0001}),
        ("norm", {"norm": "batch"}),
        ("dropout", {"dropout": 1.0}),
    ],
)
def test_wrong_configs(field: str, wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=field):
        MambaConfig(**{"width": WIDTH, **wrong})


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@torch.no_grad()
def test_rates_of_another_dtype(dtype: torch.dtype) -> None:
    """Some keep them in fp32 whatever the rest is in."""
    block = MambaBlock(MambaConfig(WIDTH, state=STATES)).to(dtype)
    block.A_log.data = block.A_log.to(torch.float64 if dtype == torch.float32 else torch.float32)
    x = torch.randn(2, 5, WIDTH, dtype=dtype)
    want, (_, now) = block(x), block(x[:, :4])
    close(block.step(x[:, 4], now)[0], want[0][:, 4])
