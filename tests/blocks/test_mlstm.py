"""The mLSTM block beside the authors' package with the same weights, without the 1e-6 of its divisors."""

from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor
from xlstm import mLSTMBlock, mLSTMBlockConfig, mLSTMLayerConfig

from recurra.blocks import MLSTMBlock, MLSTMConfig
from tools import close, wake

WIDTH, TIME = 24, 37
# Our names of parameters in their house.
NAMES = {
    "up.weight": "xlstm.proj_up.weight",
    "down.weight": "xlstm.proj_down.weight",
    "conv.weight": "xlstm.conv1d.conv.weight",
    "conv.bias": "xlstm.conv1d.conv.bias",
    "skip": "xlstm.learnable_skip",
    "norm.weight": "xlstm_norm.weight",
    "head_norm.weight": "xlstm.mlstm_cell.outnorm.weight",
}


def _theirs(block: MLSTMBlock, of: dict[str, Tensor]) -> dict[str, Tensor]:
    """Parameters of ours, or their gradients, as their house has them; norms there are 1 + w."""
    cell, heads = "xlstm.mlstm_cell.", block.config.heads
    split = {f"xlstm.{name}_proj.weight": x for name, x in zip("qkv", of["qkv"], strict=True)}
    for kind in ("weight", "bias"):
        split[f"{cell}igate.{kind}"], split[f"{cell}fgate.{kind}"] = of[f"gates.{kind}"].split(heads)
    return split | {name: of[ours] for ours, name in NAMES.items()}


def _pair() -> tuple[MLSTMBlock, Any]:
    block = MLSTMBlock(MLSTMConfig(WIDTH, heads=2))
    with torch.no_grad():
        block.gates.weight.normal_(0, 0.1)
        block.qkv.mul_(5)
    layer = mLSTMLayerConfig(embedding_dim=WIDTH, num_heads=2, context_length=TIME)
    peer = mLSTMBlock(mLSTMBlockConfig(mlstm=layer, _num_blocks=1, _block_idx=0))
    given = _theirs(block, dict(block.named_parameters()))
    for name, p in peer.named_parameters():
        x = given.pop(name).detach().reshape(p.shape)
        p.data = x - 1 if "norm" in name else x.clone()
    assert not given
    cell = peer.xlstm.mlstm_cell
    cell.backend_fn = partial(cell.backend_fn, eps=0.0)
    cell.backend_fn_step = partial(cell.backend_fn_step, eps=0.0)
    return block.double(), peer.double()


def test_outputs_and_gradients() -> None:
    block, peer = _pair()
    x, dy = torch.randn(2, 2, TIME, WIDTH, dtype=torch.float64).unbind(0)
    x.requires_grad_()
    (y, _), want = block(x), peer(x)
    close(y - x, want - x)
    parameters = [p for name, p in block.named_parameters() if name != "norm.bias"]
    names = [name for name, _ in block.named_parameters() if name != "norm.bias"]
    dx, *grads = torch.autograd.grad(y, [x, *parameters], dy)
    peers = dict(peer.named_parameters())
    dpeer, *others = torch.autograd.grad(want, [x, *peers.values()], dy)
    close(dx, dpeer)
    mine = _theirs(block, dict(zip(names, grads, strict=True)))
    for name, other in zip(peers, others, strict=True):
        close(mine[name].reshape(other.shape), other, 4096)  # gates: a norm behind them, most cancels


@torch.no_grad()
def test_a_step() -> None:
    block, peer = _pair()
    x, state, theirs = torch.randn(2, TIME, WIDTH, dtype=torch.float64), None, {}
    for x_t in x.unbind(1):
        y, state = block.step(x_t, state)
        want, theirs = peer.step(x_t[:, None], **theirs)
        close(y - x_t, want[:, 0] - x_t)


def test_it_begins_as_published() -> None:
    block = MLSTMBlock(MLSTMConfig(40, index=2, depth=4))
    assert block.config.hidden == 128
    assert not block.gates.weight.any()
    close(block.gates.bias[4:], torch.tensor([3.0, 4.0, 5.0, 6.0]))
    assert 0 < block.gates.bias[:4].abs().max() < 0.5
    close(block.down.weight.std(), torch.tensor(2 / (4 * 40**0.5)), 1e6)
    assert block.skip.eq(1).all()


@torch.no_grad()
def test_four_channels_are_mixed() -> None:
    block = wake(MLSTMBlock(MLSTMConfig(WIDTH)))
    u, m = torch.randn(2, 3, 5, block.config.hidden).unbind(0)
    q, k, v, *_ = block._inputs(u, m)
    for got, x, weight in ((q, u, block.qkv[0]), (k, u, block.qkv[1]), (v, m, block.qkv[2])):
        want = torch.block_diag(*weight)
        close(got.flatten(-2), x @ want.T)


@pytest.mark.parametrize(
    ("field", "wrong"),
    [
        ("width", {"width": 0}),
        ("index", {"index": 1}),
        ("heads", {"heads": 3}),
        ("heads", {"heads": 0}),
        ("expansion", {"expansion": 0.0}),
        ("conv", {"conv": 0}),
        ("norm", {"norm": "batch"}),
        ("dropout", {"dropout": 1.0}),
    ],
)
def test_wrong_configs(field: str, wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=field):
        MLSTMConfig(**{"width": 8, **wrong})
