"""What can't be taken is named: keys of configs, tensors, files, and what an export has no place for."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

import recurra
from interop.peers import PEERS, logits, tokens
from tools import close

Tensors = dict[str, torch.Tensor]


def _edit(folder: Path, **values: Any) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


def _rewrite(folder: Path, change: Callable[[Tensors], Any]) -> None:
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors")


LLAMA3 = {"rope_type": "llama3", "factor": 8.0, "rope_theta": 5e5}


@pytest.mark.parametrize(
    ("kind", "key", "value"),
    [
        ("mamba", "hidden_act", "gelu"),
        ("mamba", "use_conv_bias", False),
        ("mamba", "intermediate_size", 41),
        ("mamba", "layer_norm_epsilon", 0.0),
        ("mamba", "ssm_cfg", {"layer": "Mamba2"}),
        ("mamba", "quantization_config", {"bits": 4}),
        ("mamba", "architectures", ["MambaForSequenceClassification"]),
        ("mamba", "num_hidden_layers", "2"),
        ("rwkv", "attention_hidden_size", 30),
        ("xlstm", "weight_mode", "fused"),
        ("xlstm", "use_bias", True),
        ("xlstm", "v_dim_factor", 2.0),
        ("xlstm", "eps", 0.1),
        ("xlstm", "tie_word_embeddings", True),
        ("llama", "rope_parameters", LLAMA3),
        ("llama", "rope_scaling", {"type": "linear", "factor": 2.0}),
        ("llama", "partial_rotary_factor", 0.5),
        ("llama", "head_dim", 8.0),
        ("llama", "hidden_act", "gelu_pytorch_tanh"),
        ("llama", "num_attention_heads", 0),
        ("llama", "num_key_value_heads", 2.0),
        ("qwen2", "use_sliding_window", True),
        ("qwen2", "layer_types", ["full_attention", "sliding_attention"]),
        ("mistral", "sliding_window", -1),
    ],
)
def test_keys_that_change_the_logits(kind: str, key: str, value: Any, tmp_path: Path) -> None:
    PEERS[kind].saved(tmp_path)
    _edit(tmp_path, **{key: value})
    with pytest.raises(ValueError, match=rf"config.json: key '{key}'.*") as raised:
        recurra.from_transformers(tmp_path)
    assert repr(value) in str(raised.value)


def test_values_that_do_not_go_together(tmp_path: Path) -> None:
    PEERS["llama"].saved(tmp_path)
    _edit(tmp_path, num_key_value_heads=4)
    with pytest.raises(ValueError, match=r"config.json: kv_heads must divide the heads, 6, got 4"):
        recurra.from_transformers(tmp_path)


def test_a_key_that_nobody_knows_is_told(tmp_path: Path) -> None:
    peer, x = PEERS["mamba"].saved(tmp_path), tokens()
    _edit(tmp_path, residual_gate=True, bos_token_id=7, n_layer=2)
    with pytest.warns(UserWarning, match="does not know were not read: residual_gate$"):
        model = recurra.from_transformers(tmp_path)
    close(model(x)[0], logits(peer, x))


def test_older_words_for_the_base_of_the_angles(tmp_path: Path) -> None:
    peer, x = PEERS["llama"].saved(tmp_path), tokens()
    _edit(tmp_path, rope_parameters=None, rope_theta=77.0, rope_scaling=None)
    close(recurra.from_transformers(tmp_path)(x)[0], logits(peer, x))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda x: x.pop("lm_head.weight"), r"lm_head.weight \[23, 24\] is missing"),
        (
            lambda x: x.update({"model.layers.1.self_attn.k_proj.weight": torch.zeros(4, 24)}),
            r"model.layers.1.self_attn.k_proj.weight must be \[24, 24\], got \[4, 24\]",
        ),
        (lambda x: x.update({"lm_head.bias": torch.zeros(23)}), "lm_head.bias is no part of this model"),
        (
            lambda x: x.update({"model.norm.weight": torch.ones(24, dtype=torch.int8)}),
            "model.norm.weight must be floating point, got torch.int8",
        ),
    ],
)
def test_tensors_that_do_not_fit(change: Callable[[Tensors], Any], said: str, tmp_path: Path) -> None:
    PEERS["llama"].saved(tmp_path)
    _rewrite(tmp_path, change)
    with pytest.raises(ValueError, match=said):
        recurra.from_transformers(tmp_path)


def test_a_tied_head_that_is_not_the_embedding(tmp_path: Path) -> None:
    PEERS["mamba"].saved(tmp_path)
    same = load_file(tmp_path / "model.safetensors")["backbone.embeddings.weight"].clone()
    _rewrite(tmp_path, lambda x: x.update({"lm_head.weight": same}))
    assert recurra.from_transformers(tmp_path).head.tied
    _rewrite(tmp_path, lambda x: x.update({"lm_head.weight": same + 1}))
    with pytest.raises(ValueError, match=r"lm_head.weight must be the embedding's"):
        recurra.from_transformers(tmp_path)


def test_files_that_are_none(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"config.json is missing"):
        recurra.from_transformers(tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "gpt2"}')
    with pytest.raises(ValueError, match=r"'model_type' must be one of mamba, rwkv, .* got 'gpt2'"):
        recurra.from_transformers(tmp_path)
    PEERS["mamba"].saved(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"no tensors")
    with pytest.raises(ValueError, match=r"model.safetensors is not a safetensors file"):
        recurra.from_transformers(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match="holds none of"):
        recurra.from_transformers(tmp_path)
    torch.save({"a": Path("any object")}, tmp_path / "pytorch_model.bin")
    with pytest.raises(ValueError, match=r"pytorch_model.bin is not a file of tensors alone"):
        recurra.from_transformers(tmp_path)
    index = tmp_path / "model.safetensors.index.json"
    index.write_text('{"weight_map": {"a": "../elsewhere.safetensors"}}')
    with pytest.raises(ValueError, match="must name files beside it"):
        recurra.from_transformers(tmp_path)
    index.write_text('{"weight_map": {"a": "elsewhere.safetensors"}}')
    with pytest.raises(FileNotFoundError, match=r"elsewhere.safetensors is missing"):
        recurra.from_transformers(tmp_path)


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ({"blocks": "mingru"}, "blocks must be all mamba, rwkv4, xlstm_large, transformer, .* got mingru"),
        ({"blocks": ["mamba", "rwkv4"]}, "got mamba, rwkv4"),
        ({"blocks": "mamba", "options": {"norm": "layer"}}, "norm must be 'rms' in all blocks, got 'layer'"),
        ({"blocks": "mamba", "options": {"expansion": 1.5}}, "expansion must be a whole number, got 1.5"),
        ({"blocks": "mamba", "channels": 3}, "reads real numbers"),
        ({"blocks": "rwkv4", "options": {"mlp": 0.0}}, "mlp must not be 0"),
        ({"blocks": "xlstm_large", "tied": True}, "'tie_word_embeddings': True is not supported"),
        (
            {"blocks": "transformer", "options": {"mlp": 0.0}},
            "llama: mlp must not be 0; qwen2: ",
        ),
        (
            {"blocks": "transformer", "options": {"out_bias": True}},
            "llama: .*attention_bias would have .*; qwen2: .*; mistral: .*",
        ),
    ],
)
def test_models_that_transformers_can_not_hold(how: dict[str, Any], said: str, tmp_path: Path) -> None:
    model = recurra.language_model(vocabulary=11, width=8, depth=2, **how)
    with pytest.raises(ValueError, match=said):
        recurra.to_transformers(model, tmp_path / "none")
    assert not (tmp_path / "none").exists()


def test_blocks_that_differ(tmp_path: Path) -> None:
    config = recurra.language_model("transformer", 11, 8, 2).config
    config["blocks"][1]["base"] = 5.0
    with pytest.raises(ValueError, match=r"llama: base must be 10000.0 in all blocks, got 5.0"):
        recurra.to_transformers(recurra.models.SequenceModel.from_config(config), tmp_path)
    head = recurra.models.SequenceModel.from_config(
        {**recurra.language_model("mamba", 11, 8, 1).config, "cap": 3.0}
    )
    with pytest.raises(ValueError, match=r"the head must have .*'cap': 0.0.* has .*'cap': 3.0"):
        recurra.to_transformers(head, tmp_path)
