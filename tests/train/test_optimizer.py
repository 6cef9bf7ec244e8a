"""What decays, and the learning rate over a run."""

from itertools import pairwise

import pytest

from recurra.models import classic, language_model
from recurra.train.optimizer import adamw, rate


def _decayed(model):
    names = {id(p): name for name, p in model.named_parameters()}
    groups = adamw(model, 1e-3, 0.1).param_groups
    assert sum(len(group["params"]) for group in groups) == len(names)
    return {names[id(p)] for group in groups if group["weight_decay"] for p in group["params"]}


def test_gates_norms_and_biases_do_not_decay():
    assert _decayed(language_model("mingru", width=8, depth=1)) == {
        "embed.weight",
        "head.weight",
        "blocks.0.conv.weight",
        "blocks.0.out.weight",
        "blocks.0.mlp.up.weight",
        "blocks.0.mlp.down.weight",
    }


def test_gates_of_torch_do_not_decay_either():
    assert _decayed(classic(11, 8, 1, tied=True)) == {
        "embed.weight",
        "encoder.weight_hh_l0",
        "encoder.weight_hh_l0_reverse",
        "decoder.weight_hh_l0",
        "align.weight",
        "mix.weight",
    }


def test_the_rate_rises_and_falls():
    rates = [rate(step, 10, step / 100) for step in range(101)]
    assert rates.index(max(rates)) == 10
    assert rates[0] > 0
    assert all(a > b for a, b in pairwise(rates[10:]))
    assert rates[-1] == pytest.approx(0.1)
    assert rate(0, 0, 0.0) == 1
