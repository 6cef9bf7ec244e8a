"""`recurra export-transformers` as a person types it."""

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

import recurra
from recurra.models import ByteVocabulary
from tools import close


def test_a_saved_model(command, tmp_path):
    model = recurra.language_model("mamba", 256, 8, 1).eval()
    model.save_pretrained(tmp_path / "run", ByteVocabulary())
    code, out, err = command("export-transformers", tmp_path / "run", tmp_path / "theirs")
    assert (code, err) == (0, "")
    assert str(tmp_path / "theirs") in out
    tokens = AutoTokenizer.from_pretrained(tmp_path / "theirs")("naïve", return_tensors="pt").input_ids
    assert tokens[0].tolist() == list("naïve".encode())
    with torch.no_grad():
        close(model(tokens)[0], AutoModelForCausalLM.from_pretrained(tmp_path / "theirs")(tokens).logits)


def test_a_model_without_a_place_there(command, tmp_path):
    recurra.language_model("mingru", 256, 8, 1).save_pretrained(tmp_path / "run")
    code, _, err = command("export-transformers", tmp_path / "run", tmp_path / "theirs")
    assert code == 1
    assert err.startswith("recurra: blocks must be all mamba, rwkv4")
    assert err.count("\n") == 1
