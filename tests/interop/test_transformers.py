"""Checkpoints of transformers here, and ours there: logits whole and step by step, generation, files."""

import json
import sys
from dataclasses import fields
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

import recurra
from interop.peers import PEERS, VOCABULARY, logits, tokens
from recurra.blocks.table import BLOCKS
from recurra.interop.family import Family, Field
from recurra.interop.table import FAMILIES
from recurra.models import SequenceModel
from tools import close, wake

every = pytest.mark.parametrize("kind", PEERS)


@every
@torch.no_grad()
def test_there_and_back(kind: str, tmp_path: Path) -> None:
    peer, x = PEERS[kind].saved(tmp_path / "theirs"), tokens()
    model, want = recurra.from_transformers(tmp_path / "theirs"), logits(peer, x)
    assert not model.training
    close(model(x)[0], want)
    now, rows = None, []
    for token in x.unbind(1):
        y, now = model.step(token, now)
        rows.append(y)
    close(torch.stack(rows, 1), want)

    recurra.to_transformers(model, tmp_path / "back")
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "back").eval()
    close(logits(again, x), want)
    given, back = (load_file(tmp_path / name / "model.safetensors") for name in ("theirs", "back"))
    assert given.keys() == back.keys()
    assert all(given[name].equal(back[name]) for name in given)

    model.save_pretrained(tmp_path / "ours")
    assert SequenceModel.from_pretrained(tmp_path / "ours")(x)[0].equal(model(x)[0])


@pytest.mark.parametrize("block", ["mamba", "rwkv4", "xlstm_large", "transformer"])
@torch.no_grad()
def test_models_that_began_here(block: str, tmp_path: Path) -> None:
    """With what ours are unless told otherwise."""
    model, x = wake(recurra.language_model(block, VOCABULARY, 16, 2)).eval(), tokens()
    recurra.to_transformers(model, tmp_path)
    close(logits(AutoModelForCausalLM.from_pretrained(tmp_path).eval(), x), model(x)[0])
    again = recurra.from_transformers(tmp_path)
    assert again.head.cap == model.head.cap == 0
    close(again(x)[0], model(x)[0])


@every
@torch.no_grad()
def test_greedy_generation(kind: str, tmp_path: Path) -> None:
    peer = PEERS[kind].saved(tmp_path)
    prompt = tokens(3)[:1]
    want = prompt
    for _ in range(6):
        want = torch.cat([want, logits(peer, want)[:, -1:].argmax(-1)], 1)
    written = recurra.from_transformers(tmp_path).generate(prompt, 6, temperature=0)
    assert torch.stack(list(written), 1).equal(want[:, 3:])


@every
def test_what_a_missing_key_means(kind: str, tmp_path: Path) -> None:
    """Older files lack keys; what then holds is what transformers takes."""
    peer = PEERS[kind]
    defaults = peer.config().to_dict()
    family = FAMILIES[defaults["model_type"]]
    known = {key.theirs: key.default for key in family.keys if isinstance(key, Field)}
    known |= {"vocab_size": family.vocabulary, "hidden_size": family.width}
    known |= {"num_hidden_layers": family.depth, "tie_word_embeddings": family.tied}
    for name, value in known.items():
        if name == "rope_theta":
            assert defaults["rope_parameters"]["rope_theta"] == value
        elif value not in (None, "auto"):
            assert defaults[name] == value, name


@pytest.mark.parametrize("family", FAMILIES.values(), ids=lambda family: family.model_type)
def test_every_field_of_ours_is_in_the_table(family: Family) -> None:
    """Else an export would pass over it."""
    told = [key.ours for key in family.keys if isinstance(key, Field) and key.ours]
    known = [*told, *family.fixed, *family.free, *family.varying, "width"]
    assert {field.name for field in fields(BLOCKS[family.block].config)} == set(known)


@every
def test_every_key_of_theirs_is_in_the_table(kind: str, tmp_path: Path) -> None:
    """Else an import would warn of each, or pass over one: warnings are errors here."""
    PEERS[kind].saved(tmp_path)
    config = PEERS[kind].config(**PEERS[kind].values).to_dict()
    (tmp_path / "config.json").write_text(json.dumps({**config, "vocab_size": VOCABULARY}))
    recurra.from_transformers(tmp_path)


def test_transformers_is_not_needed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    PEERS["mamba"].saved(tmp_path)
    monkeypatch.setitem(sys.modules, "transformers", None)
    recurra.to_transformers(recurra.from_transformers(tmp_path), tmp_path / "back")
