"""RWKV-4 beside transformers' model with the same weights, and beside a trained model's published logits."""

import math
import os
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import RwkvConfig
from transformers.models.rwkv.modeling_rwkv import RwkvForCausalLM

import recurra
from recurra.blocks import RWKV4Config
from recurra.models import SequenceModel
from tools import close, wake

VOCABULARY, WIDTH, DEPTH = 11, 12, 3
# Our names of a block's parameters in transformers; the mixes there have two axes more.
NAMES = {
    "first_norm": "pre_ln",
    "norm": "ln1",
    "channel_norm": "ln2",
    "time_mix.mix_k": "attention.time_mix_key",
    "time_mix.mix_v": "attention.time_mix_value",
    "time_mix.mix_r": "attention.time_mix_receptance",
    "time_mix.decay": "attention.time_decay",
    "time_mix.bonus": "attention.time_first",
    "time_mix.key": "attention.key",
    "time_mix.value": "attention.value",
    "time_mix.receptance": "attention.receptance",
    "time_mix.out": "attention.output",
    "channel_mix.mix_k": "feed_forward.time_mix_key",
    "channel_mix.mix_r": "feed_forward.time_mix_receptance",
    "channel_mix.key": "feed_forward.key",
    "channel_mix.value": "feed_forward.value",
    "channel_mix.receptance": "feed_forward.receptance",
}


def _theirs(name: str) -> str:
    """What transformers calls a parameter of ours."""
    outside = {
        "embed.weight": "rwkv.embeddings.weight",
        "head.weight": "head.weight",
        "head.norm.weight": "rwkv.ln_out.weight",
        "head.norm.bias": "rwkv.ln_out.bias",
    }
    if name in outside:
        return outside[name]
    _, index, rest = name.split(".", 2)
    prefix = f"rwkv.blocks.{index}."
    if rest in NAMES:
        return prefix + NAMES[rest]
    part, kind = rest.rsplit(".", 1)
    return f"{prefix}{NAMES[part]}.{kind}"


def _model() -> SequenceModel:
    return wake(recurra.language_model("rwkv4", VOCABULARY, WIDTH, DEPTH))


def _peer(model: SequenceModel) -> Any:
    config = RwkvConfig(
        vocab_size=VOCABULARY, hidden_size=WIDTH, num_hidden_layers=DEPTH, rescale_every=0, use_cache=True
    )
    peer = RwkvForCausalLM(config)
    shapes = {name: p.shape for name, p in peer.named_parameters()}
    ours = {_theirs(name): p.detach().clone() for name, p in model.named_parameters()}
    peer.load_state_dict({name: p.view(shapes[name]) for name, p in ours.items()})
    return peer


def test_logits_and_gradients() -> None:
    model = _model()
    peer, tokens = _peer(model), torch.randint(VOCABULARY, (3, 20))
    logits, want = model(tokens)[0], peer(tokens, use_cache=False).logits
    close(logits, want)
    seed = torch.randn_like(logits)
    logits.backward(seed)
    want.backward(seed)
    others = dict(peer.named_parameters())
    for name, p in model.named_parameters():
        other = others[_theirs(name)].grad
        assert other.any(), name
        close(p.grad, other.view(p.shape))


@torch.no_grad()
def test_a_carried_state() -> None:
    model = _model()
    # Of one row: a step of theirs mixes rows.
    peer, tokens = _peer(model).eval(), torch.randint(VOCABULARY, (1, 9))
    logits, state = model(tokens[:, :5])
    out = peer(tokens[:, :5])
    close(logits, out.logits)
    for token in tokens[:, 5:].unbind(1):
        logits, state = model.step(token, state)
        out = peer(token[:, None], state=out.state)
        close(logits, out.logits[:, 0])
    for i, block in enumerate(state):
        channel, time, numerator, denominator, largest = (part[:, :, i] for part in out.state)
        close(block.time.x[:, 0], time)
        close(block.channel.x[:, 0], channel)
        for got, want in zip(block.average, (largest, numerator, denominator), strict=True):
            close(got, want)


def test_drawn_as_published() -> None:
    """transformers draws the same mixes and decays; of the matrices it knows nothing, and of the bonus 1."""
    model = recurra.language_model("rwkv4", VOCABULARY, WIDTH, DEPTH)
    fresh = dict(RwkvForCausalLM(_peer(model).config).named_parameters())
    for name, p in model.named_parameters():
        if "mix_" in name.rsplit(".", 1)[-1] or name.endswith("decay"):
            close(p, fresh[_theirs(name)].view(p.shape))
    block = model.blocks[1]
    close(block.time_mix.bonus.exp()[:3], torch.tensor([0.3, 0.3 * math.exp(0.5), 0.3 * math.exp(-0.5)]))
    for linear in (block.time_mix.key, block.time_mix.receptance, block.time_mix.out):
        assert not linear.weight.any()
    square, tall = block.time_mix.value.weight, block.channel_mix.key.weight
    close(square @ square.t(), torch.eye(WIDTH))
    close(tall.t() @ tall, 4 * torch.eye(WIDTH))
    assert model.blocks[0].first_norm is not None
    assert block.first_norm is None


def read_tensors(path: Path) -> dict[str, Tensor]:
    """rwkv.cpp's file: a header, then for each tensor its axes (the last first), its name and its numbers."""
    data, at, tensors = path.read_bytes(), 24, {}
    while at < len(data):
        axes, length, dtype = struct.unpack_from("<3i", data, at)
        assert dtype == 0, "fp32"
        *shape, name = struct.unpack_from(f"<{axes}i{length}s", data, at + 12)
        at += 12 + 4 * axes + length
        x = torch.frombuffer(bytearray(data[at : at + 4 * torch.Size(shape).numel()]), dtype=torch.float32)
        tensors[name.decode()], at = x.view(shape[::-1]), at + 4 * x.numel()
    return tensors


def published(path: Path, to: Path, decay: Callable[[Tensor], Tensor]) -> None:
    """Write the tensors of rwkv.cpp's file in the authors' layout, and with their decays."""
    tensors = read_tensors(path)
    for name, x in tensors.items():
        if "time_mix" in name:
            tensors[name] = x[None, None]
        if name.endswith(("time_decay", "time_faaaa")):
            tensors[name] = decay(x).squeeze(-1).float() if name.endswith("time_decay") else x.squeeze(-1)
    torch.save(tensors, to)


@torch.no_grad()
def test_a_trained_model(tmp_path: Path) -> None:
    if "RECURRA_DATA" not in os.environ:
        pytest.skip("RECURRA_DATA is not set: a folder with models/rwkv_tiny of rwkv.cpp's tests")
    folder = Path(os.environ["RECURRA_DATA"]) / "models" / "rwkv_tiny"
    # The file holds -exp(decay).
    published(folder / "tiny-rwkv-4v0-660K-FP32.bin", tmp_path / "4.pth", lambda x: (-x).log())
    model = recurra.from_rwkv(tmp_path / "4.pth")
    want = torch.frombuffer(
        bytearray((folder / "expected-logits-4v0-660K.bin").read_bytes()), dtype=torch.float32
    )
    tokens = torch.tensor([list(b'"in')])
    logits, _ = model(tokens)
    close(logits[0, -1], want)
    recurra.to_transformers(model, tmp_path)
    close(RwkvForCausalLM.from_pretrained(tmp_path)(tokens).logits[0, -1], want)


@pytest.mark.parametrize(
    ("field", "wrong"),
    [
        ("width", {"width": 0}),
        ("index", {"index": 2, "depth": 2}),
        ("index", {"index": -1}),
        ("mlp", {"mlp": -1.0}),
        ("norm", {"norm": "batch"}),
        ("dropout", {"dropout": 1.0}),
    ],
)
def test_wrong_configs(field: str, wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=field):
        RWKV4Config(**{"width": 8, **wrong})
