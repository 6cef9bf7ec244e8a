"""Advice on half precision, of rates that are given here; that they are measured at all."""

import pytest
import torch

from recurra.train import precision
from recurra.train.precision import advice

CPU = torch.device("cpu")


@pytest.fixture
def slow(monkeypatch: pytest.MonkeyPatch) -> None:
    rates = {torch.float32: 1.0, torch.bfloat16: 1.7, torch.float16: 1.1}
    monkeypatch.setattr(precision, "seconds", rates.__getitem__)


@pytest.mark.usefixtures("slow")
def test_who_trains_in_a_slower_precision_is_told():
    assert "bf16-mixed saves memory here, not time" in str(advice("bf16-mixed", CPU))
    assert "takes 1.7 times" in str(advice("bf16-true", CPU))


@pytest.mark.usefixtures("slow")
@pytest.mark.parametrize(
    "told", [("32-true", "cpu"), ("64-true", "cpu"), ("16-mixed", "cpu"), ("bf16-mixed", "cuda")]
)
def test_nothing_is_said_where_nothing_is_lost(told):
    name, device = told
    assert advice(name, torch.device(device)) is None


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_every_precision_is_measured(dtype):
    assert precision.seconds(dtype) > 0
