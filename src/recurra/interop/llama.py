"""Llama and its kin as transformers has them: model types llama, mistral and qwen2."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from recurra.interop.family import Family, Field, Head, Must, Row

__all__ = ["LLAMA", "MISTRAL", "QWEN2"]

Config = Mapping[str, Any]


def _swapped(x: Tensor, axis: int, *sizes: int) -> Tensor:
    """An axis that is four, of these sizes, with the middle two the other way round."""
    y: Tensor = x.unflatten(axis, sizes)
    return y.transpose(axis + 1, axis + 2).flatten(axis, axis + 3)


def _split(x: Tensor, config: Any) -> Sequence[Tensor]:
    """q, k and v of rows [q | k | v]: a rotary pair lies side by side here, and half a head apart there; the
    queries of a key lie side by side there."""
    heads = config.queries, config.pairs, config.pairs
    q, k, v = x.split([n * config.channels for n in heads])
    return _swapped(_by_key(q, config), 0, heads[0], -1, 2, 1), _swapped(k, 0, heads[1], -1, 2, 1), v


def _join(xs: Sequence[Tensor], config: Any) -> Tensor:
    q, k, v = xs
    q = _by_group(_swapped(q, 0, config.queries, 2, -1, 1), config)
    return torch.cat([q, _swapped(k, 0, config.pairs, 2, -1, 1), v])


def _by_key(x: Tensor, config: Any, axis: int = 0) -> Tensor:
    """An axis of all queries in their order."""
    return _swapped(x, axis, 1, -1, config.pairs, config.channels)


def _by_group(x: Tensor, config: Any, axis: int = 0) -> Tensor:
    """Back in ours."""
    return _swapped(x, axis, 1, config.pairs, -1, config.channels)


def _columns(x: Tensor, config: Any) -> Sequence[Tensor]:
    return [_by_key(x, config, 1)]


def _columns_back(xs: Sequence[Tensor], config: Any) -> Tensor:
    return _by_group(xs[0], config, 1)


def _rows() -> tuple[Row, ...]:
    block = "model.layers.{}."
    rows = [
        Row("embed.weight", ("model.embed_tokens.weight",)),
        Row("blocks.{}.norm.weight", (block + "input_layernorm.weight",)),
        Row("blocks.{}.mlp_norm.weight", (block + "post_attention_layernorm.weight",)),
        Row("head.norm.weight", ("model.norm.weight",)),
        Row("head.weight", ("lm_head.weight",)),
    ]
    for kind in ("weight", "bias"):
        qkv = tuple(f"{block}self_attn.{part}_proj.{kind}" for part in "qkv")
        up = tuple(f"{block}mlp.{part}_proj.{kind}" for part in ("gate", "up"))
        rows += [
            Row(f"blocks.{{}}.qkv.{kind}", qkv, _split, _join),
            Row(f"blocks.{{}}.mlp.up.{kind}", up, lambda x, _: x.chunk(2), lambda xs, _: torch.cat([*xs])),
            Row(f"blocks.{{}}.mlp.down.{kind}", (f"{block}mlp.down_proj.{kind}",)),
        ]
    o = block + "self_attn.o_proj."
    weight = Row("blocks.{}.out.weight", (o + "weight",), _columns, _columns_back)
    return (*rows, weight, Row("blocks.{}.out.bias", (o + "bias",)))


def _base(value: float, theirs: Config) -> float:
    """The base of the rotary angles; newer configs have it among other rope parameters."""
    given: Config = theirs["rope_parameters"] or {}
    return float(given.get("rope_theta", value))


def _plain_rope(value: Any, theirs: Config) -> bool:
    """True where angles are t base^(-2j/C) and no more."""
    rest = dict(value or {})
    base = rest.pop("rope_theta", 1.0)
    known = {"rope_type": "default", "type": "default", "partial_rotary_factor": 1.0}
    return isinstance(base, int | float) and all(known.get(key) == x for key, x in rest.items())


def _head(value: int | None, theirs: Config) -> int:
    """0 where heads share the width."""
    return 0 if value is None or value * theirs["num_attention_heads"] == theirs["hidden_size"] else value


_OPTIONAL = (int, type(None))
_KEYS: tuple[Field | Must, ...] = (
    Field("num_attention_heads", 32, "heads", save=lambda model: model.blocks[0].config.queries),
    Field("rms_norm_eps", 1e-6, "eps", save=lambda model: model.blocks[0].norm.eps),
    Field("rope_theta", 10000.0, "base", _base),
    Must("rope_parameters", None, _plain_rope),
    Must("rope_scaling", None, _plain_rope),
    Must("partial_rotary_factor", 1.0),
    Field("head_dim", None, "head", _head, lambda model: model.blocks[0].config.channels, _OPTIONAL),
    Must("hidden_act", "silu"),
)


def _hidden(model: Any) -> int:
    if model.blocks[0].mlp is None:
        raise ValueError("mlp must not be 0")
    return int(model.blocks[0].config.hidden)


def _inner(default: int) -> Field:
    return Field("intermediate_size", default, "inner", save=_hidden)


def _kv_heads(default: int | None) -> Field:
    return Field(
        "num_key_value_heads",
        default,
        "kv_heads",
        lambda v, c: c["num_attention_heads"] if v is None else v,
        lambda model: model.blocks[0].config.pairs,
        _OPTIONAL,
    )


_FIXED = {"norm": "rms", "bidirectional": False}
_HARMLESS = ("initializer_range", "max_position_embeddings", "attention_dropout", "pretraining_tp")

LLAMA = Family(
    model_type="llama",
    architecture="LlamaForCausalLM",
    block="transformer",
    keys=(
        *_KEYS,
        _inner(11008),
        _kv_heads(None),
        Field("attention_bias", False, "qkv_bias"),
        Field("attention_bias", False, "out_bias"),
        Field("mlp_bias", False, "mlp_bias"),
    ),
    rows=_rows(),
    head=lambda c: Head("rms", c["rms_norm_eps"]),
    vocabulary=32000,
    width=4096,
    depth=32,
    tied=False,
    fixed={**_FIXED, "window": 0},
    # Of the last, what is meant is in the inner width.
    free=("dropout", "mlp"),
    varying=(),
    harmless=_HARMLESS,
    ignored=("rotary_emb.inv_freq",),
)
MISTRAL = LLAMA._replace(
    model_type="mistral",
    architecture="MistralForCausalLM",
    keys=(
        *_KEYS,
        _inner(14336),
        _kv_heads(8),
        Field(
            "sliding_window",
            4096,
            "window",
            lambda v, _: v or 0,
            lambda model: model.blocks[0].config.window or None,
            _OPTIONAL,
        ),
    ),
    fixed={**_FIXED, "qkv_bias": False, "out_bias": False, "mlp_bias": False},
)
QWEN2 = LLAMA._replace(
    model_type="qwen2",
    architecture="Qwen2ForCausalLM",
    keys=(
        *_KEYS,
        _inner(22016),
        _kv_heads(32),
        Must("use_sliding_window", False),
        Must("layer_types", None, lambda v, _: v is None or set(v) == {"full_attention"}),
    ),
    vocabulary=151936,
    fixed={**_FIXED, "window": 0, "qkv_bias": True, "out_bias": False, "mlp_bias": False},
    # Without use_sliding_window they say nothing.
    harmless=(*_HARMLESS, "sliding_window", "max_window_layers"),
)
