"""RWKV-5 beside a trained model's published logits, and beside its equation written a second time."""

import os
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import functional as F

import recurra
from blocks.test_rwkv4 import VOCABULARY, WIDTH, published
from recurra.blocks import RWKV5Config
from recurra.blocks.rwkv import Masks
from recurra.blocks.rwkv5 import TimeMix
from tools import close, wake


@torch.no_grad()
def test_a_trained_model(tmp_path: Path) -> None:
    if "RECURRA_DATA" not in os.environ:
        pytest.skip("RECURRA_DATA is not set: a folder with models/rwkv_tiny of rwkv.cpp's tests")
    folder = Path(os.environ["RECURRA_DATA"]) / "models" / "rwkv_tiny"
    # The file holds exp(-exp(decay)).
    published(folder / "tiny-rwkv-5v2-730K-FP32.bin", tmp_path / "5.pth", lambda x: (-x.double().log()).log())
    # rwkv.cpp divides by nothing.
    model = recurra.from_rwkv(tmp_path / "5.pth", divisor=1.0)
    want = torch.frombuffer(
        bytearray((folder / "expected-logits-5v2-730K.bin").read_bytes()), dtype=torch.float32
    )
    tokens = torch.tensor([list(b'"in')])
    _, state = model(tokens[:, :-1])
    close(model.step(tokens[:, -1], state)[0][0], want)
    close(model(tokens)[0][0, -1], want)


@torch.no_grad()
def test_a_time_mix_is_attention_with_decays() -> None:
    """All pairs of steps at once, in fp64."""
    mix = wake(TimeMix(RWKV5Config(WIDTH, heads=3, index=1, depth=3))).double()
    x = torch.randn(2, 9, WIDTH, dtype=torch.float64)
    got, *_ = mix(x, None, None, Masks(None, None))
    before = F.pad(x, (0, 0, 1, -1))
    parts = (("r", mix.receptance), ("k", mix.key), ("v", mix.value), ("g", mix.gate))
    r, k, v, g = (part(torch.lerp(before, x, getattr(mix, f"mix_{name}"))) for name, part in parts)
    apart = torch.arange(9)[:, None] - torch.arange(9) - 1
    rates = (-mix.decay.exp()[:, None, None] * apart).exp().masked_fill(apart < 0, 0)
    weights = rates + mix.bonus[:, None, None] * torch.eye(9)
    pairs = (r[:, :, None] * k[:, None] * weights.permute(1, 2, 0)).unflatten(-1, (3, -1)).sum(-1)
    y = torch.einsum("btsh,bshc->bthc", pairs, v.unflatten(-1, (3, -1))).reshape(-1, WIDTH)
    normed = F.group_norm(y / 8, 3, mix.norm.weight.flatten(), mix.norm.bias.flatten()).view(x.shape)
    close(got, mix.out(normed * F.silu(g)))


def test_an_untrained_block_changes_nothing() -> None:
    block = recurra.language_model("rwkv5", VOCABULARY, WIDTH, 2).blocks[1]
    x = torch.randn(2, 5, WIDTH)
    assert block(x)[0].equal(x)


@pytest.mark.parametrize(
    ("field", "wrong"),
    [
        ("width", {"width": 0}),
        ("heads", {"heads": 3}),
        ("heads", {"heads": -1}),
        ("divisor", {"divisor": 0.0}),
        ("mlp", {"mlp": -1.0}),
    ],
)
def test_wrong_configs(field: str, wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=field):
        RWKV5Config(**{"width": 8, **wrong})
