"""A whole stack of mLSTM and sLSTM blocks beside the authors' package with the same weights."""

from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.func import functional_call

from blocks.test_mlstm import _theirs as mlstm_names
from blocks.test_slstm import _renamed as slstm_names
from recurra import language_model
from recurra.blocks import MLSTMBlock
from recurra.models import SequenceModel
from tools import close

WIDTH, TIME, TOKENS = 24, 19, 11


def _peer(depth: int, slstm_at: list[int]) -> Any:
    """Their model, without the 1e-6 of its divisors."""
    xlstm = pytest.importorskip("xlstm")
    config = xlstm.xLSTMLMModelConfig(
        mlstm_block=xlstm.mLSTMBlockConfig(mlstm=xlstm.mLSTMLayerConfig(num_heads=2)),
        slstm_block=xlstm.sLSTMBlockConfig(slstm=xlstm.sLSTMLayerConfig(num_heads=2, backend="vanilla")),
        context_length=TIME,
        num_blocks=depth,
        embedding_dim=WIDTH,
        slstm_at=slstm_at,
        vocab_size=TOKENS,
    )
    peer = xlstm.xLSTMLMModel(config).double()
    for block in peer.xlstm_block_stack.blocks:
        if cell := getattr(block.xlstm, "mlstm_cell", None):
            cell.backend_fn = partial(cell.backend_fn, eps=0.0)
            cell.backend_fn_step = partial(cell.backend_fn_step, eps=0.0)
    return peer


def _renamed(model: SequenceModel) -> dict[str, Tensor]:
    """Our parameters by their names in the package, in its shapes; norms there are 1 + w, without a bias."""
    stack = "xlstm_block_stack."
    given = {
        "token_embedding.weight": model.embed.weight,
        "lm_head.weight": model.head.weight,
        f"{stack}post_blocks_norm.weight": model.head.norm.weight - 1,
    }
    for i, block in enumerate(model.blocks):
        if isinstance(block, MLSTMBlock):
            named = mlstm_names(block, dict(block.named_parameters()))
            named = {name: p - int("norm" in name) for name, p in named.items()}
        else:
            named = slstm_names(block)
        given |= {f"{stack}blocks.{i}.{name}": p for name, p in named.items()}
    return given


def _pair(pattern: str, depth: int, slstm_at: list[int]) -> tuple[SequenceModel, Any, dict[str, Tensor]]:
    model = language_model("xlstm", TOKENS, WIDTH, depth, pattern=pattern, options={"heads": 2}).double()
    with torch.no_grad():  # what begins as zeros, so that it is seen; and of the norms, all ones
        for name, p in model.named_parameters():
            if name.endswith(("gates.weight", "weight_hh")) or ("norm" in name and "weight" in name):
                p.add_(torch.randn_like(p) / 5)
    peer = _peer(depth, slstm_at)
    shapes = {name: p.shape for name, p in peer.named_parameters()}
    given = _renamed(model)
    assert given.keys() == shapes.keys()
    return model, peer, {name: p.reshape(shapes[name]) for name, p in given.items()}


@pytest.mark.parametrize(
    ("pattern", "depth", "slstm_at"),
    [("1:1", 4, [1, 3]), ("3:1", 4, [3]), ("1:0", 2, []), ("0:1", 2, [0, 1])],
)
def test_logits_and_gradients(pattern: str, depth: int, slstm_at: list[int]) -> None:
    """Of every parameter but the biases of norms, which the package leaves out."""
    model, peer, given = _pair(pattern, depth, slstm_at)
    tokens = torch.randint(0, TOKENS, (2, TIME))
    y, want = model(tokens)[0], functional_call(peer, given, (tokens,))
    close(y, want)
    leaves = [p for name, p in model.named_parameters() if not name.endswith("norm.bias")]
    dy = torch.randn_like(y)
    for got, other in zip(*(torch.autograd.grad(out, leaves, dy) for out in (y, want)), strict=True):
        close(got, other, 1024)  # gates of the first blocks: a norm behind each, most cancels


@torch.no_grad()
def test_steps() -> None:
    model, peer, given = _pair("1:1", 2, [1])
    for name, p in peer.named_parameters():
        p.copy_(given[name])
    state, theirs = None, None
    for token in torch.randint(0, TOKENS, (TIME, 2)):
        y, state = model.step(token, state)
        want, theirs = peer.step(token[:, None], theirs)
        close(y, want[:, 0])
