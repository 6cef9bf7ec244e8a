"""xLSTM-7B as transformers has it (model type xlstm)."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from recurra.interop.family import Config, Family, Field, Head, Must, Row

__all__ = ["XLSTM"]

_BLOCK = "backbone.blocks.{}."
_MULTIPLE = 64
# What stands there for logits without a cap: it changes none of them by more than rounding does.
_NO_CAP = 2.0**20


def _qkvo(x: Tensor, config: Any) -> Sequence[Tensor]:
    parts: Sequence[Tensor] = x.split([*[config.key_width] * 2, *[config.width] * 2])
    return parts


def _pair(ours: str, first: str, second: str) -> Row:
    """Two tensors there are one here, the first in front."""
    names = _BLOCK + first, _BLOCK + second
    return Row(f"blocks.{{}}.{ours}", names, lambda x, _: x.chunk(2), lambda xs, _: torch.cat([*xs]))


def _rows() -> tuple[Row, ...]:
    parts = ("q", "k", "v", "ogate_preact")
    qkvo = tuple(f"{_BLOCK}mlstm_layer.{part}.weight" for part in parts)
    gates = "mlstm_layer.igate_preact.", "mlstm_layer.fgate_preact."
    same = {
        "norm.weight": "norm_mlstm.weight",
        "down.weight": "mlstm_layer.out_proj.weight",
        "mlp_norm.weight": "norm_ffn.weight",
        "mlp.down.weight": "ffn.proj_down.weight",
    }
    return (
        Row("embed.weight", ("backbone.embeddings.weight",)),
        *(Row(f"blocks.{{}}.{ours}", (_BLOCK + theirs,)) for ours, theirs in same.items()),
        Row("blocks.{}.qkvo.weight", qkvo, _qkvo, lambda xs, _: torch.cat([*xs])),
        *(_pair(f"gates.{kind}", *(gate + kind for gate in gates)) for kind in ("weight", "bias")),
        Row(
            "blocks.{}.head_norm.weight",
            (_BLOCK + "mlstm_layer.multihead_norm.weight",),
            lambda x, _: [x.flatten()],
            lambda xs, config: xs[0].unflatten(0, (config.heads, -1)),
        ),
        _pair("mlp.up.weight", "ffn.proj_up_gate.weight", "ffn.proj_up.weight"),
        Row("head.norm.weight", ("backbone.out_norm.weight",)),
        Row("head.weight", ("lm_head.weight",)),
    )


def _inner(factor: float, theirs: Config) -> int:
    """The inner width, rounded up."""
    multiple = theirs["ffn_round_up_to_multiple_of"]
    return int((theirs["hidden_size"] * factor + multiple - 1) // multiple * multiple)


def _hidden(model: Any) -> int:
    if model.blocks[0].mlp is None:
        raise ValueError("mlp must not be 0")
    return int(model.blocks[0].config.hidden)


def _multiple(model: Any) -> int:
    """What the inner width is a multiple of; rounding up to it makes good what a quotient loses."""
    hidden = _hidden(model)
    return hidden if hidden % _MULTIPLE else _MULTIPLE


def _cap(value: float | None) -> float:
    return 0.0 if value is None or value >= _NO_CAP else float(value)


XLSTM = Family(
    model_type="xlstm",
    architecture="xLSTMForCausalLM",
    block="xlstm_large",
    keys=(
        Field("num_heads", 8, "heads", save=lambda model: model.blocks[0].heads),
        Field("qk_dim_factor", 0.5, "keys"),
        Field("ffn_round_up_to_multiple_of", _MULTIPLE, "", save=_multiple),
        Field("ffn_proj_factor", 2.667, "inner", _inner, lambda model: _hidden(model) / model.head.width),
        Field("gate_soft_cap", 15.0, "gate_cap"),
        Field("norm_eps", 1e-6, "eps"),
        Field(
            "output_logit_soft_cap",
            30.0,
            "",
            save=lambda model: model.head.cap or _NO_CAP,
            kinds=(float, type(None)),
        ),
        Must("v_dim_factor", 1.0),
        Must("use_bias", False),
        Must("weight_mode", "single"),
        Must("add_out_norm", True),
        # Added to the divisor of a head; the norm behind leaves nothing of it where it is as small as this.
        Must("eps", 1e-6, lambda v, _: 0 <= v <= 1e-6),
        # There no weights are tied, whatever the config says.
        Must("tie_word_embeddings", False),
        Must("embedding_dim", None, lambda v, c: v in (None, c["hidden_size"])),
        Must("num_blocks", None, lambda v, c: v in (None, c["num_hidden_layers"])),
    ),
    rows=_rows(),
    head=lambda c: Head("rms", c["norm_eps"], _cap(c["output_logit_soft_cap"])),
    vocabulary=50304,
    width=4096,
    depth=32,
    tied=False,
    fixed={"norm": "rms"},
    free=("dropout", "depth", "input_bias", "mlp"),
    varying=(),
    # They choose among kernels, and where these round.
    harmless=(
        *("norm_reduction_force_float32", "chunkwise_kernel", "sequence_kernel", "step_kernel", "mode"),
        *("chunk_size", "return_last_states", "autocast_kernel_dtype", "inference_state_dtype"),
        "max_inference_chunksize",
    ),
)
