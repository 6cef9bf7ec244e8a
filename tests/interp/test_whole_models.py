"""All methods of the room, one after the other, on whole models: trained ones, and one of 130 million."""

import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import MambaConfig, MambaForCausalLM, RwkvForCausalLM

import recurra
from blocks.test_rwkv4 import published
from recurra.interp import (
    LogitLens,
    Pair,
    Place,
    Recipe,
    StateLens,
    Statements,
    TunedLens,
    apart,
    by_depth,
    contrast,
    elicit,
    fit,
    lives,
    load_lens,
    readable,
    save_lens,
    steer,
    subject,
    sweep,
    trajectory,
)

TINY = "models/rwkv_tiny/tiny-rwkv-"
TEXT = b'"in the morning of the day the man who had come from the sea said to the others that the '


def lenses(model: Any, tokens: Tensor, folder: Path) -> None:
    """Training brings each lens nearer to the model, and what is saved says the same; a tuned lens begins
    as the logit lens."""
    plain, begun = (by_depth(lens, [tokens], 1.0) for lens in (LogitLens(model), TunedLens(model)))
    assert [row.kl for row in begun] == pytest.approx([row.kl for row in plain], 1e-4, 1e-5)
    recipe = Recipe("adam", 1e-3, 0.0, 12, tokens.numel(), tokens.shape[1])
    for lens in (TunedLens(model), StateLens(model, every=8)):
        before = by_depth(lens, [tokens], 1.0)
        fit(lens, lambda _: tokens, recipe)
        after = by_depth(lens, [tokens], 1.0)
        # What the small RWKV-4 says is settled in front of its first block: there is nothing to learn.
        assert sum(row.kl for row in after) < max(1e-3, sum(row.kl for row in before))
        assert after[-1].bits_per_byte == pytest.approx(before[-1].bits_per_byte, 1e-4)
        save_lens(lens, folder / "lens.safetensors")
        again = by_depth(load_lens(folder / "lens.safetensors", model), [tokens], 1.0)
        assert [row.kl for row in again] == pytest.approx([row.kl for row in after], 1e-4, 1e-5)
    seen = trajectory(TunedLens(model), tokens[:1, :16])
    assert seen.top.shape[:3] == (len(subject(model).blocks), 1, 16)


def steering(model: Any, tokens: Tensor) -> None:
    """A dose moves an answer, none leaves it, and the context leaves nothing behind."""
    rows = tokens[:, :12].tolist()
    pairs = [Pair(row[:-2], row[-2:-1], row[-1:]) for row in rows if row[-1] != row[-2]]
    places = readable(model, blocks=[len(subject(model).blocks) // 2])
    vectors = contrast(model, pairs, places)
    doses = sweep(model, pairs, vectors, (0.0, 2.0))
    assert {dose.on for dose in doses} == {"block", "state", "block+state"}
    assert all(dose.change == 0 for dose in doses if not dose.multiplier)
    assert any(dose.change for dose in doses)
    want = subject(model).read(tokens)[0]
    with steer(model, {places[0]: vectors[places[0]]}, 2.0):
        assert not subject(model).read(tokens)[0].equal(want)
    assert subject(model).read(tokens)[0].equal(want)


def knowledge(model: Any, tokens: Tensor) -> None:
    """A token that tells is found in a block and in a state, by each probe with labels."""
    told = tokens[:, :8].repeat(8, 1)
    true = torch.arange(len(told)) % 2 == 0
    told[:, -1] = torch.where(true, tokens[0, 0], tokens[0, 1])
    statements = Statements(list(told), true, true)
    places = [Place(kind, 0) for kind in ("block", "state")]
    answers = int(tokens[0, 0]), int(tokens[0, 1])
    probes = ("difference", "logistic", "lda")
    made = elicit(model, statements, {"same": statements}, "same", places, probes, answers)
    assert len(made.found) == len(places) * len(probes)
    assert all(found.aurocs["same"] == 1 for found in made.found if found.probe != "lda")


def memory(model: Any, tokens: Tensor, own: bool) -> None:
    """Two texts that differ in one token are apart where they differ, and what a state forgets is a share."""
    text = tokens[:1, :8]
    other = text.clone()
    other[:, 5] = tokens[0, 6]
    made = apart(model, text, other, 8)
    assert made.distance[:, :5].eq(0).all()
    assert made.distance[0, 5:].gt(1e-6).all()
    assert made.moved[:, :-1].isfinite().all()
    for life in lives(model, tokens[:1]) if own else ():
        assert life.factors is not None
        assert 0 < float(life.half_lives.median()) < math.inf


def everything(model: Any, tokens: Tensor, folder: Path, own: bool) -> None:
    """All of it; own: a model of this library, whose gates are known."""
    lenses(model, tokens, folder)
    steering(model, tokens)
    knowledge(model, tokens)
    memory(model, tokens, own)


def _rwkv4(folder: Path) -> Any:
    published(
        Path(os.environ["RECURRA_DATA"]) / f"{TINY}4v0-660K-FP32.bin", folder / "4.pth", lambda x: (-x).log()
    )
    return recurra.from_rwkv(folder / "4.pth")


def _rwkv5(folder: Path) -> Any:
    def decay(x: Tensor) -> Tensor:
        return (-x.double().log()).log()

    published(Path(os.environ["RECURRA_DATA"]) / f"{TINY}5v2-730K-FP32.bin", folder / "5.pth", decay)
    return recurra.from_rwkv(folder / "5.pth", divisor=1.0)


def _rwkv4_of_transformers(folder: Path) -> Any:
    recurra.to_transformers(_rwkv4(folder), folder)
    return RwkvForCausalLM.from_pretrained(folder)


@pytest.mark.parametrize("make", [_rwkv4, _rwkv5, _rwkv4_of_transformers])
def test_trained_models(make: Callable[[Path], Any], tmp_path: Path) -> None:
    if "RECURRA_DATA" not in os.environ:
        pytest.skip("RECURRA_DATA is not set: a folder with models/rwkv_tiny of rwkv.cpp's tests")
    model = make(tmp_path).eval().requires_grad_(False)
    tokens = torch.tensor([list(TEXT[i : i + 64]) for i in range(8)])
    own = make is not _rwkv4_of_transformers
    if own:
        everything(model, tokens, tmp_path, own)
        return
    with recurra.accelerate(model):
        everything(model, tokens, tmp_path, own)


@pytest.mark.slow
@pytest.mark.parametrize("own", [False, True], ids=["transformers", "ours"])
def test_a_mamba_of_130_million(own: bool, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model: Any = MambaForCausalLM(MambaConfig(num_hidden_layers=24)).eval().requires_grad_(False)
    assert sum(p.numel() for p in model.parameters()) == 129_135_360
    tokens = torch.randint(model.config.vocab_size, (4, 24))
    if own:
        model.save_pretrained(tmp_path / "theirs")
        model = recurra.from_transformers(tmp_path / "theirs").eval().requires_grad_(False)
        everything(model, tokens, tmp_path, own)
        return
    with recurra.accelerate(model):
        everything(model, tokens, tmp_path, own)
