"""The block of xLSTM-7B beside the authors' package and its port in transformers, with the same weights."""

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.func import functional_call

from recurra.blocks import XLSTMLargeBlock, XLSTMLargeConfig
from recurra.state import OuterState
from tools import close

WIDTH, HEADS, TIME = 24, 2, 48
CPU = {
    "chunkwise_kernel": "chunkwise--native_autograd",
    "sequence_kernel": "native_sequence__native",
    "step_kernel": "native",
}
# In fp64, and without the 1e-6 that they add to a divisor.
EXACT: dict[str, Any] = {
    "eps": 0.0,
    "norm_reduction_force_float32": False,
    "inference_state_dtype": "float64",
}


def _renamed(block: XLSTMLargeBlock) -> dict[str, Tensor]:
    """A block's parameters by their names in the package, in its shapes."""
    ours, keys = dict(block.named_parameters()), block.config.key_width
    parts = ours["qkvo.weight"].split([keys, keys, block.config.width, block.config.width])
    gate, value = ours["mlp.up.weight"].chunk(2)
    given = dict(zip(("q", "k", "v", "ogate_preact"), parts, strict=True))
    for kind in ("weight", "bias"):
        i, f = ours[f"gates.{kind}"].chunk(2)
        given |= {f"igate_preact.{kind}": i, f"fgate_preact.{kind}": f}
    named = {f"mlstm_layer.{name}" + (".weight" if "." not in name else ""): p for name, p in given.items()}
    return named | {
        "norm_mlstm.weight": ours["norm.weight"],
        "mlstm_layer.multihead_norm.weight": ours["head_norm.weight"].flatten(),
        "mlstm_layer.out_proj.weight": ours["down.weight"],
        "norm_ffn.weight": ours["mlp_norm.weight"],
        "ffn.proj_up_gate.weight": gate,
        "ffn.proj_up.weight": value,
        "ffn.proj_down.weight": ours["mlp.down.weight"],
    }


def _pair(mode: str) -> tuple[XLSTMLargeBlock, Any]:
    large = pytest.importorskip("xlstm.xlstm_large.model")
    block = XLSTMLargeBlock(XLSTMLargeConfig(WIDTH, heads=HEADS)).double()
    with torch.no_grad():  # gates far into their cap, and norms that are not all ones
        for p, size in ((block.gates.weight, 2.0), (block.gates.bias, 5.0)):
            p.normal_(0, size)
        for p in (block.norm.weight, block.head_norm.weight, block.mlp_norm.weight):
            p.add_(torch.randn_like(p) / 3)
    sizes = {"embedding_dim": WIDTH, "num_heads": HEADS, "num_blocks": 1, "vocab_size": 1}
    config = large.xLSTMLargeConfig(
        **sizes, **CPU, **EXACT, mode=mode, chunk_size=16, return_last_states=True
    )
    peer = large.mLSTMBlock(config).double()
    assert {k: p.shape for k, p in peer.named_parameters()} == {
        k: p.shape for k, p in _renamed(block).items()
    }
    return block, peer


def test_outputs_and_gradients() -> None:
    """Of the input and of every parameter."""
    block, peer = _pair("train")
    x = torch.randn(2, TIME, WIDTH, dtype=torch.float64, requires_grad=True)
    (y, _), (want, _) = block(x), functional_call(peer, _renamed(block), (x,))
    close(y, want)
    leaves, dy = [x, *block.parameters()], torch.randn_like(y)
    for got, other in zip(*(torch.autograd.grad(out, leaves, dy) for out in (y, want)), strict=True):
        close(got, other, 4096)  # gates: a norm behind them, most cancels


@torch.no_grad()
@pytest.mark.parametrize("pieces", [[TIME], [16, 32], [1] * TIME], ids=["whole", "chunks", "steps"])
def test_states(pieces: list[int]) -> None:
    block, peer = _pair("inference")
    given, state, theirs = _renamed(block), None, None
    for x in torch.randn(2, TIME, WIDTH, dtype=torch.float64).split(pieces, 1):
        y, state = block(x, state) if len(pieces) < TIME else _stepped(block, x, state)
        want, theirs = functional_call(peer, given, (x, theirs))
        close(y, want, 4096)  # the same
        c, n, top = theirs
        scale = (block.config.key_width // HEADS) ** -0.5  # of keys here, of queries there
        for got, other in zip(state, (c * scale, n * scale, top[..., 0]), strict=True):
            close(got, other)


def _stepped(block: XLSTMLargeBlock, x: Tensor, state: OuterState | None) -> tuple[Tensor, OuterState]:
    y, state = block.step(x[:, 0], state)
    return y[:, None], state


@torch.no_grad()
def test_the_port_in_transformers() -> None:
    """Two blocks and their draws; in the port `gate` in a name makes zeros, of o and of the SwiGLU too."""
    transformers = pytest.importorskip("transformers")
    sizes = {"hidden_size": 128, "num_heads": 4, "num_hidden_layers": 2, "vocab_size": 5}
    peer = transformers.xLSTMModel(transformers.xLSTMConfig(**sizes, **CPU)).eval()
    blocks = [XLSTMLargeBlock(XLSTMLargeConfig(128, depth=2)) for _ in range(2)]
    x, y = torch.randn(2, TIME, 128), None
    for block, other in zip(blocks, peer.blocks, strict=True):
        theirs = dict(other.named_parameters())
        for name, p in _renamed(block).items():
            if name.endswith("bias") or "norm" in name or "f_gate" in name:
                close(p, theirs[name])
            elif theirs[name].any():
                close(p.std(), theirs[name].std(), 1e6)
        other.load_state_dict(_renamed(block))
        y, _ = block(x if y is None else y)
    close(peer.out_norm.weight * torch.nn.functional.rms_norm(y, (128,), eps=1e-6), peer(inputs_embeds=x)[0])


@pytest.mark.parametrize(
    ("field", "wrong"),
    [
        ("width", {"width": 0}),
        ("depth", {"depth": 0}),
        ("heads", {"heads": 3}),
        ("keys", {"keys": 0.0}),
        ("keys", {"keys": 0.1}),
        ("mlp", {"mlp": -1.0}),
        ("inner", {"inner": 9, "mlp": 0.0}),
        ("gate_cap", {"gate_cap": 0.0}),
        ("eps", {"eps": -1.0}),
        ("norm", {"norm": "batch"}),
        ("dropout", {"dropout": 1.0}),
    ],
)
def test_wrong_configs(field: str, wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=field):
        XLSTMLargeConfig(**{"width": 8, **wrong})
