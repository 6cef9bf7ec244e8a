"""Files of checkpoints: in parts, by torch.save, of several dtypes, from a hub; and tokenizers."""

import json
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
import torch
from safetensors.torch import load_file, save_file
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import AutoTokenizer

import recurra
from interop.peers import PEERS, VOCABULARY, logits, tokens
from recurra.models import BPEVocabulary, ByteVocabulary, CharVocabulary
from tools import close

WEIGHTS = "model.safetensors"
TEXT = "def f(x):\n    return x  # naïve, 日本語 🙂\n"


def test_parts(tmp_path: Path) -> None:
    peer, x = PEERS["mamba"].made(), tokens()
    peer.save_pretrained(tmp_path, max_shard_size="4KB")
    assert not (tmp_path / WEIGHTS).exists()
    close(recurra.from_transformers(tmp_path)(x)[0], logits(peer, x))


def test_older_names(tmp_path: Path) -> None:
    """An embedding of another name, and tensors that are no parameters."""
    for kind in ("mamba", "llama"):
        peer, x = PEERS[kind].saved(tmp_path), tokens()
        weights = load_file(tmp_path / WEIGHTS)
        if kind == "mamba":
            weights["backbone.embedding.weight"] = weights.pop("backbone.embeddings.weight")
        else:
            weights["model.layers.1.self_attn.rotary_emb.inv_freq"] = torch.ones(2)
        save_file(weights, tmp_path / WEIGHTS)
        close(recurra.from_transformers(tmp_path)(x)[0], logits(peer, x))


def test_a_file_of_torch(tmp_path: Path) -> None:
    peer, x = PEERS["rwkv"].saved(tmp_path), tokens()
    torch.save(load_file(tmp_path / WEIGHTS), tmp_path / "pytorch_model.bin")
    (tmp_path / WEIGHTS).unlink()
    close(recurra.from_transformers(tmp_path)(x)[0], logits(peer, x))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64, torch.float16])
def test_dtypes(dtype: torch.dtype, tmp_path: Path) -> None:
    PEERS["llama"].saved(tmp_path)
    weights = {name: x.to(dtype) for name, x in load_file(tmp_path / WEIGHTS).items()}
    save_file(weights, tmp_path / WEIGHTS)
    model = recurra.from_transformers(tmp_path)
    kept = torch.float32 if dtype == torch.float16 else dtype
    assert {p.dtype for p in model.parameters()} == {kept}
    recurra.to_transformers(model, tmp_path / "back")
    assert json.loads((tmp_path / "back" / "config.json").read_text())["dtype"] == str(kept)[6:]
    weights["model.norm.weight"] = weights["model.norm.weight"].float()
    save_file(weights, tmp_path / WEIGHTS)
    wide = torch.promote_types(kept, torch.float32)
    assert {p.dtype for p in recurra.from_transformers(tmp_path).parameters()} == {wide}


def test_a_repository_of_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is asked for: safetensors, and files of torch only where there are none."""
    PEERS["mamba"].saved(tmp_path / "here")
    asked: list[list[str]] = []

    def download(name: str, allow_patterns: list[str]) -> str:
        asked.append(allow_patterns)
        return str(tmp_path / name.split("/")[1])

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    recurra.from_transformers("nobody/here")
    assert len(asked) == 1
    assert not any("bin" in pattern for pattern in asked[0])
    (tmp_path / "bare").mkdir()
    with pytest.raises(FileNotFoundError):
        recurra.from_transformers("nobody/bare")
    assert "pytorch_model*.bin" in asked[2]


def _neox(extra: list[AddedToken]) -> Any:
    """A tokenizer of the make of GPT-NeoX's, whose special tokens come first and runs of spaces last."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=300,
        special_tokens=["<|endoftext|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([TEXT] * 3, trainer)
    tokenizer.add_tokens(extra)
    return tokenizer


def test_tokens_that_were_added(tmp_path: Path) -> None:
    runs = [AddedToken(" " * n, normalized=True) for n in (4, 2)]
    tokenizer = _neox([*runs, AddedToken("<|päd|>", special=True)])
    vocabulary = BPEVocabulary(tokenizer)
    assert vocabulary.size == tokenizer.get_vocab_size()
    assert vocabulary.pieces[0] == b"<|endoftext|>"
    assert vocabulary.pieces[-1] == "<|päd|>".encode()
    text = TEXT + "<|endoftext|>" + TEXT + "<|päd|>"
    numbers = vocabulary.encode(text)
    assert {0, vocabulary.size - 3, vocabulary.size - 2, vocabulary.size - 1} <= set(numbers)
    assert vocabulary.decode(numbers) == text
    assert vocabulary.count_bytes(torch.tensor(numbers)) == len(text.encode())
    vocabulary.save(tmp_path)
    assert recurra.models.vocabulary.load_vocabulary(tmp_path).pieces == vocabulary.pieces


@pytest.mark.parametrize("kind", ["bpe", "byte", "char"])
def test_vocabularies_there_and_back(kind: str, tmp_path: Path) -> None:
    vocabulary = {
        "bpe": lambda: BPEVocabulary(_neox([AddedToken("  ")])),
        "byte": ByteVocabulary,
        "char": lambda: CharVocabulary.of(TEXT),
    }[kind]()
    model = recurra.language_model("mamba", vocabulary.size + 3, 8, 1)
    model.vocabulary = vocabulary
    recurra.to_transformers(model, tmp_path)
    tokenizer, want = AutoTokenizer.from_pretrained(tmp_path), vocabulary.encode(TEXT)
    assert tokenizer.encode(TEXT, add_special_tokens=False) == want
    assert tokenizer.decode(want) == TEXT
    if kind == "char":
        with pytest.warns(UserWarning, match="without its vocabulary: .* not byte-level"):
            assert recurra.from_transformers(tmp_path).vocabulary is None
        return
    again = recurra.from_transformers(tmp_path)
    assert again.vocabulary is not None
    assert again.vocabulary.decode([again.head.size - 1, want[0]]) == vocabulary.decode(want[:1])
    assert list(again.vocabulary.pieces) == list(vocabulary.pieces)
    assert again.vocabulary.encode(TEXT) == want
    again.save_pretrained(tmp_path / "ours")
    assert recurra.models.SequenceModel.from_pretrained(tmp_path / "ours").vocabulary is not None


def test_a_tokenizer_of_another_kind(tmp_path: Path) -> None:
    PEERS["llama"].saved(tmp_path)
    words = Tokenizer(models.WordLevel({"▁a": 0, "▁b": 1}, unk_token="▁a"))
    words.save(str(tmp_path / "tokenizer.json"))
    with pytest.warns(UserWarning, match=r"tokenizer.json is no vocabulary"):
        assert recurra.from_transformers(tmp_path).vocabulary is None
    _neox([]).save(str(tmp_path / "tokenizer.json"))
    with pytest.warns(UserWarning, match=f"has 291 tokens, the model only {VOCABULARY}"):
        assert recurra.from_transformers(tmp_path).vocabulary is None
