"""RWKV-4 and RWKV-5 in their authors' layout; the trained ones are read in tests/blocks."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

import recurra
from interop.peers import PEERS, logits, tokens
from recurra.interop.rwkv import PUBLISHED
from recurra.interop.weights import named
from tools import close, wake

VOCABULARY, WIDTH, DEPTH = 23, 12, 2


@pytest.mark.parametrize("number", PUBLISHED)
def test_there_and_back(number: int, tmp_path: Path) -> None:
    options = {"mlp": 2.5, **({"heads": 3, "divisor": 2.0} if number == 5 else {})}
    model = wake(recurra.language_model(f"rwkv{number}", VOCABULARY, WIDTH, DEPTH, options=options))
    tensors = named(PUBLISHED[number], model)
    assert tensors["blocks.1.att.time_mix_k"].shape == (1, 1, WIDTH)
    assert tensors["blocks.1.att.time_decay"].shape == ((3, 4) if number == 5 else (WIDTH,))
    torch.save(tensors, tmp_path / "it.pth")
    save_file(tensors, tmp_path / "it.safetensors")
    for kind in ("pth", "safetensors"):
        again = recurra.from_rwkv(tmp_path / f"it.{kind}", divisor=2.0)
        assert not again.training
        assert again.config == model.config
        assert again(x := tokens())[0].equal(model(x)[0])


def test_of_transformers_by_its_other_names(tmp_path: Path) -> None:
    """The same numbers under both houses' names."""
    peer, x = PEERS["rwkv"].saved(tmp_path), tokens()
    peer.config.layer_norm_epsilon = 1e-5
    for module in peer.modules():
        if isinstance(module, torch.nn.LayerNorm):
            module.eps = 1e-5
    words = {
        "rwkv.embeddings": "emb",
        "rwkv.": "",
        "pre_ln": "ln0",
        "attention": "att",
        "feed_forward": "ffn",
    }
    words |= {
        "time_mix_key": "time_mix_k",
        "time_mix_value": "time_mix_v",
        "time_mix_receptance": "time_mix_r",
    }
    tensors = {}
    for name, p in peer.state_dict().items():
        for theirs, other in words.items():
            name = name.replace(theirs, other)  # noqa: PLW2901
        tensors[name] = p
    torch.save(tensors, tmp_path / "it.pth")
    close(recurra.from_rwkv(tmp_path / "it.pth")(x)[0], logits(peer, x))


def test_errors(tmp_path: Path) -> None:
    model = recurra.language_model("rwkv5", VOCABULARY, WIDTH, DEPTH, options={"heads": 3})
    tensors, path = named(PUBLISHED[5], model), tmp_path / "it.pth"
    with pytest.raises(FileNotFoundError, match=r"it.pth is missing"):
        recurra.from_rwkv(path)
    path.write_bytes(b"nothing")
    with pytest.raises(ValueError, match=r"it.pth is not a file of tensors alone"):
        recurra.from_rwkv(path)
    torch.save([1], path)
    with pytest.raises(ValueError, match=r"it.pth must hold tensors by their names, got list"):
        recurra.from_rwkv(path)
    for name in ("blocks.0.att.time_mix_k", "blocks.0.att.gate.weight", "blocks.1.ln1.bias", "head.weight"):
        torch.save({other: x for other, x in tensors.items() if other != name}, path)
        with pytest.raises(ValueError, match=rf"it.pth: {name} .*is missing"):
            recurra.from_rwkv(path)
    torch.save({**tensors, "blocks.0.att.time_maa_x": torch.zeros(1)}, path)
    with pytest.raises(ValueError, match=r"it.pth: blocks.0.att.time_maa_x is no part of this model"):
        recurra.from_rwkv(path)
