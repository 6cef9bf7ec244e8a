"""Tiny models of transformers with random weights, for `test_accelerate`."""

import importlib
import sys
from contextlib import nullcontext

import torch
import transformers
from transformers.initialization import no_init_weights

SIZES = {"vocab_size": 40, "num_hidden_layers": 2}


def _mamba(**more):
    config = transformers.MambaConfig(hidden_size=32, state_size=4, **SIZES, **more)
    return transformers.MambaForCausalLM(config)


def _rwkv(**more):
    config = transformers.RwkvConfig(
        hidden_size=32, attention_hidden_size=32, rescale_every=1, **SIZES, **more
    )
    return transformers.RwkvForCausalLM(config)


def _xlstm(house=transformers, **more):
    # The cache's sizes are multiples of 64, also where the layer's are not.
    config = house.xLSTMConfig(hidden_size=128, num_heads=2, **SIZES, **more)
    return house.xLSTMForCausalLM(config)


class _Copies:
    """xLSTM as transformers has it where the authors' package is not installed."""

    def __init__(self):
        names = [f"transformers.models.xlstm.{kind}_xlstm" for kind in ("configuration", "modeling")]
        old = {name: sys.modules.pop(name) for name in names if name in sys.modules}
        utils = importlib.import_module("transformers.utils")
        there, utils.is_xlstm_available = utils.is_xlstm_available, lambda: False
        try:
            configuration, modeling = map(importlib.import_module, names)
        finally:
            utils.is_xlstm_available = there
            sys.modules.update(old)
        self.xLSTMConfig, self.xLSTMForCausalLM = configuration.xLSTMConfig, modeling.xLSTMForCausalLM


MODELS = {
    "mamba": _mamba,
    "mamba, other options": lambda: _mamba(
        use_bias=True, use_conv_bias=False, residual_in_fp32=False, hidden_act="gelu", conv_kernel=3
    ),
    "rwkv": _rwkv,
    "xlstm": _xlstm,
    "xlstm, copies": lambda: _xlstm(_Copies()),
    "xlstm, fused": lambda: _xlstm(_Copies(), weight_mode="fused", use_bias=True),
}


def build(name):
    """The model, with weights that are no round numbers, in eval mode."""
    torch.manual_seed(0)
    # transformers can't draw the fused weights of an xLSTM.
    with no_init_weights() if "fused" in name else nullcontext():
        model = MODELS[name]()
    with torch.no_grad():
        for p in model.parameters():
            p.copy_(0.1 * torch.randn_like(p) + (0 if "fused" in name else p))
    return model.eval()
