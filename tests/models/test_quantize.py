"""A quantized model is near the one it was made of, and writes, in one native call, what it reads."""

import copy
from typing import Any

import pytest
import torch

from ops.recurrences import NATIVE
from recurra import language_model, quantize
from recurra.blocks import BLOCKS
from recurra.models import classic, encoder_decoder
from recurra.models.pairs import Pair
from recurra.models.stepper import PlainStepper, RecordedStepper, stepper
from recurra.ops import Quantized
from recurra.ops.quantized import QUANTIZED
from tools import close, rms, same_state, wake

kinds = pytest.mark.parametrize("kind", QUANTIZED)
every = pytest.mark.parametrize("name", BLOCKS)
# Relative RMS error of the logits of two blocks, drawn as they are or, where zero, from N(0, 1/100).
BOUND = {"bf16": 0.005, "int8": 0.02}
# Matrices that no product with a few rows reads.
APART = ("embed.weight", "dt_proj.weight", "conv.weight", "qkv", "A_log")


def _model(name: str, **more: Any) -> Any:
    torch.manual_seed(0)
    return wake(language_model(name, vocabulary=37, width=130, depth=2, **more), 0.1).eval()


@torch.no_grad()
@kinds
@every
def test_near_the_model_in_fp32(name: str, kind: str) -> None:
    model, tokens = _model(name), torch.randint(0, 37, (3, 21))
    want = model(tokens)[0]
    got = quantize(model, kind)(tokens)[0]
    assert 1e-6 < rms(got, want) < BOUND[kind]


@NATIVE
@torch.no_grad()
@kinds
@every
def test_writes_what_it_reads(name: str, kind: str) -> None:
    """Its step, as it is and as one native call, against the whole sequence."""
    model, tokens = quantize(_model(name), kind), torch.randint(0, 37, (3, 11))
    want, end = model(tokens)
    state = model(tokens[:, :5])[1]
    recorded, plain = stepper(model, state), PlainStepper(model, state)
    assert isinstance(recorded, RecordedStepper)
    for t in range(5, 11):
        close(recorded(tokens[:, t]), want[:, t], 256)
        close(plain(tokens[:, t]), want[:, t], 256)
    same_state(recorded.state, end, 256)


@every
def test_every_large_matrix(name: str) -> None:
    model = quantize(_model(name), "int8")
    left = [n for n, p in model.named_parameters() if p.ndim > 1 and p.numel() > 2 * 130 * 37]
    assert all(n.endswith(APART) for n in left), left
    held = sum(part.numel() for part in model.modules() if isinstance(part, Quantized))
    assert held > sum(p.numel() for p in model.blocks.parameters())


@torch.no_grad()
@kinds
def test_tied(kind: str) -> None:
    """The table stays, the head has a matrix of its own."""
    model, tokens = _model("mingru", tied=True), torch.randint(0, 37, (2, 9))
    table, want = model.embed.weight.clone(), model(tokens)[0]
    quantize(model, kind)
    assert model.embed.weight.equal(table)
    close(model.head.matrix.wide(), Quantized.of(table, kind).wide(), 0)
    assert rms(model(tokens)[0], want) < BOUND[kind]


@kinds
def test_its_loss_is_that_of_its_logits(kind: str) -> None:
    model, tokens = quantize(_model("mamba"), kind), torch.randint(0, 37, (2, 9))
    want = torch.nn.functional.cross_entropy(model(tokens[:, :-1])[0].mT, tokens[:, 1:])
    close(model.loss(tokens[:, :-1], tokens[:, 1:])[0], want)
    with torch.no_grad():
        close(model.loss(tokens[:, :-1], tokens[:, 1:])[0], want)


@kinds
def test_generates(kind: str) -> None:
    model = quantize(_model("mingru"), kind)
    tokens = [int(x) for x in model.generate([1, 2, 3], 9, temperature=0)]
    prompt = [1, 2, 3]
    for token in tokens:
        assert token == int(model(torch.tensor([prompt]))[0][0, -1].argmax())
        prompt.append(token)


@torch.no_grad()
@pytest.mark.parametrize("make", [classic, encoder_decoder])
def test_of_pairs(make: Any) -> None:
    model = wake(make(vocabulary=11, width=64, depth=1)).eval()
    pair = Pair(torch.randint(11, (2, 6)), torch.tensor([6, 3]), torch.randint(11, (2, 5)))
    want = model(pair)[0]
    assert 0 < rms(quantize(model, "int8")(pair)[0], want) < BOUND["int8"]


def test_fp32_is_the_model_as_it_is() -> None:
    model = _model("mingru").train()
    before = copy.deepcopy(model.state_dict())
    assert quantize(model, "fp32") is model
    assert all(x.equal(before[name]) for name, x in model.state_dict().items())
    assert model.training
    assert all(p.requires_grad for p in model.parameters())


def test_refused(tmp_path: Any) -> None:
    model = _model("mingru")
    with pytest.raises(ValueError, match=r"weights must be one of fp32, bf16, int8, got 'int4'"):
        quantize(model, "int4")
    with pytest.raises(ValueError, match=r"model must be in fp32, got torch\.float64"):
        quantize(copy.deepcopy(model).double(), "int8")
    quantize(model, "int8")
    with pytest.raises(ValueError, match="quantized already"):
        quantize(model, "bf16")
    with pytest.raises(RuntimeError, match="not trained"):
        model.train()
    with pytest.raises(RuntimeError, match="not saved"):
        model.save_pretrained(tmp_path)
    assert not model.training
    assert not any(p.requires_grad for p in model.parameters())
    assert not list(tmp_path.iterdir())
