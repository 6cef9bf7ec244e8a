"""sLSTM beside the authors' package with the same weights, cell and block; and how the block begins."""

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.func import functional_call

from recurra import ops
from recurra.blocks import SLSTMBlock, SLSTMConfig
from recurra.state import SLSTMState
from tools import close

WIDTH, HEADS, TIME = 24, 4, 37


@pytest.mark.parametrize("given", [False, True], ids=["fresh", "given"])
def test_cell(given: bool) -> None:
    cells = pytest.importorskip("xlstm.blocks.slstm.cell")
    config = cells.sLSTMCellConfig(hidden_size=WIDTH, num_heads=HEADS, backend="vanilla")
    cell = cells.sLSTMCell_vanilla(config).to(torch.float64)
    weight, bias = torch.randn_like(cell._recurrent_kernel_) / 3, torch.randn_like(cell._bias_)
    cell._recurrent_kernel_.data, cell._bias_.data = weight, bias
    x = torch.randn(2, TIME, 4 * WIDTH, dtype=torch.float64, requires_grad=True)
    h, c, m = (torch.randn(2, WIDTH, dtype=torch.float64) for _ in range(3))
    state = torch.stack([h, c, 1 + c.abs(), m]) if given else torch.zeros(4, 2, WIDTH, dtype=torch.float64)
    state.requires_grad_()
    want, last = cell(x, state)
    want = want.transpose(1, 2).flatten(2)
    leaves = [x, cell._recurrent_kernel_, cell._bias_, state]
    y, end = ops.slstm(x, *leaves[1:3], SLSTMState(*state))
    close(y, want)
    close(torch.stack(tuple(end)), last)
    seeds, leaves = (torch.randn_like(y), torch.randn_like(last)), leaves if given else leaves[:3]
    grads = torch.autograd.grad((want, last), leaves, seeds)
    for got, other in zip(
        torch.autograd.grad((y, torch.stack(tuple(end))), leaves, seeds), grads, strict=True
    ):
        close(got, other)


def _renamed(block: SLSTMBlock) -> dict[str, Tensor]:
    """A block's parameters by their names in the package, in its shapes."""
    ours = dict(block.named_parameters())
    gates = zip(
        ("fgate", "igate", "zgate", "ogate"), ours["gates"], strict=True
    )  # named so, they feed i, f, z, o
    return {f"xlstm.{name}.weight": weight for name, weight in gates} | {
        "xlstm_norm.weight": ours["norm.weight"] - 1,
        "xlstm.conv1d.conv.weight": ours["conv.weight"][:, None],
        "xlstm.conv1d.conv.bias": ours["conv.bias"],
        "xlstm.slstm_cell._recurrent_kernel_": ours["weight_hh"],
        "xlstm.slstm_cell._bias_": ours["bias"],
        "xlstm.group_norm.weight": ours["head_norm.weight"].flatten() - 1,
        "ffn_norm.weight": ours["mlp_norm.weight"] - 1,
        "ffn.proj_up.weight": ours["mlp.up.weight"],
        "ffn.proj_down.weight": ours["mlp.down.weight"],
    }


def _peer(index: int, depth: int, width: int = WIDTH) -> Any:
    xlstm = pytest.importorskip("xlstm")
    layer = xlstm.sLSTMLayerConfig(embedding_dim=width, num_heads=HEADS, backend="vanilla")
    return xlstm.sLSTMBlock(xlstm.sLSTMBlockConfig(layer, _num_blocks=depth, _block_idx=index))


def test_block() -> None:
    """Outputs, and the gradients of the input and of every parameter; in the package norms have no bias."""
    peer, block = _peer(0, 1).double(), SLSTMBlock(SLSTMConfig(WIDTH)).double()
    with torch.no_grad():
        for p in (block.weight_hh, block.norm.weight, block.head_norm.weight):
            p.add_(torch.randn_like(p) / 3)
    x = torch.randn(2, TIME, WIDTH, dtype=torch.float64, requires_grad=True)
    renamed = _renamed(block)
    assert renamed.keys() == dict(peer.named_parameters()).keys()
    (y, _), want = block(x), functional_call(peer, renamed, (x,))
    close(y, want)
    leaves = [x, *(p for name, p in block.named_parameters() if not name.endswith("norm.bias"))]
    dy = torch.randn_like(y)
    for got, other in zip(*(torch.autograd.grad(out, leaves, dy) for out in (y, want)), strict=True):
        close(got, other)


@pytest.mark.parametrize("index", [0, 1, 2])
def test_it_begins_as_published(index: int) -> None:
    """Biases and zeros are the same numbers, draws are of one size."""
    block = SLSTMBlock(SLSTMConfig(256, index=index, depth=3))
    for name, p in _renamed(block).items():
        other = dict(_peer(index, 3, 256).named_parameters())[name]
        assert p.shape == other.shape
        close(p.std(), other.std(), 1e6)
        if name.endswith(("_bias_", "_kernel_", "norm.weight")):
            close(p, other)
