"""RWKV-4 as transformers has it (model type rwkv), and RWKV-4 and RWKV-5 as their authors publish them."""

import re
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from recurra.interop.family import Family, Field, Head, Must, Row, reshaped
from recurra.models.sequence import SequenceModel, language_model
from recurra.ops.norm import LAYER_EPS

__all__ = ["PUBLISHED", "RWKV", "untrained", "version"]

# Our name of a module or a parameter of a block, that of transformers, and the authors'.
_MODULES = (
    ("first_norm", "pre_ln", "ln0"),
    ("norm", "ln1", "ln1"),
    ("channel_norm", "ln2", "ln2"),
    ("time_mix.key", "attention.key", "att.key"),
    ("time_mix.value", "attention.value", "att.value"),
    ("time_mix.receptance", "attention.receptance", "att.receptance"),
    ("time_mix.out", "attention.output", "att.output"),
    ("channel_mix.key", "feed_forward.key", "ffn.key"),
    ("channel_mix.value", "feed_forward.value", "ffn.value"),
    ("channel_mix.receptance", "feed_forward.receptance", "ffn.receptance"),
)
_MIXES = (
    ("time_mix.mix_k", "attention.time_mix_key", "att.time_mix_k"),
    ("time_mix.mix_v", "attention.time_mix_value", "att.time_mix_v"),
    ("time_mix.mix_r", "attention.time_mix_receptance", "att.time_mix_r"),
    ("channel_mix.mix_k", "feed_forward.time_mix_key", "ffn.time_mix_k"),
    ("channel_mix.mix_r", "feed_forward.time_mix_receptance", "ffn.time_mix_r"),
)
_OF_4 = (
    ("time_mix.decay", "attention.time_decay", "att.time_decay"),
    ("time_mix.bonus", "attention.time_first", "att.time_first"),
)
_OF_5 = (("time_mix.decay", "att.time_decay"), ("time_mix.bonus", "att.time_faaaa"))


def _rows(house: int, embedding: str, blocks: str, norm: str) -> tuple[Row, ...]:
    """What RWKV-4 and RWKV-5 have in common, in house 1 (transformers) or 2 (the authors)."""
    modules = [(names[0], names[house]) for names in _MODULES]
    return (
        Row("embed.weight", (embedding,)),
        *(
            Row(f"blocks.{{}}.{ours}.{kind}", (f"{blocks}.{theirs}.{kind}",))
            for ours, theirs in modules
            for kind in ("weight", "bias")
        ),
        *(
            reshaped(f"blocks.{{}}.{names[0]}", f"{blocks}.{names[house]}", lambda x, _: x[None, None], 1)
            for names in _MIXES
        ),
        *(Row(f"head.norm.{kind}", (f"{norm}.{kind}",)) for kind in ("weight", "bias")),
        Row("head.weight", ("head.weight",)),
    )


def _of_4(house: int, blocks: str) -> tuple[Row, ...]:
    return tuple(Row(f"blocks.{{}}.{names[0]}", (f"{blocks}.{names[house]}",)) for names in _OF_4)


def _by_head(x: Tensor, config: Any) -> Tensor:
    heads: Tensor = x.unflatten(0, (config.heads, -1))
    return heads


_NORM = "blocks.{}.time_mix.norm."
_PUBLIC = _rows(2, "emb.weight", "blocks.{}", "ln_out")
# What the authors write, by the number of the version.
PUBLISHED: Mapping[int, tuple[Row, ...]] = {
    4: _PUBLIC + _of_4(2, "blocks.{}"),
    5: (
        *_PUBLIC,
        *(reshaped(f"blocks.{{}}.{ours}", f"blocks.{{}}.{theirs}", _by_head, 1) for ours, theirs in _OF_5),
        reshaped("blocks.{}.time_mix.mix_g", "blocks.{}.att.time_mix_g", lambda x, _: x[None, None], 1),
        Row("blocks.{}.time_mix.gate.weight", ("blocks.{}.att.gate.weight",)),
        *(
            Row(
                _NORM + kind,
                ("blocks.{}.att.ln_x." + kind,),
                lambda x, _: [x.flatten()],
                lambda xs, c: _by_head(xs[0], c),
            )
            for kind in ("weight", "bias")
        ),
    ),
}


def version(tensors: Mapping[str, Tensor]) -> int:
    """4 or 5, of tensors with the authors' names. Raises ValueError that names what is missing."""
    number = 5 if "blocks.0.att.ln_x.weight" in tensors else 4
    needed = ("emb.weight", "blocks.0.ffn.key.weight", "blocks.0.att.time_decay", "blocks.0.att.time_mix_k")
    for name in (*needed, *(("blocks.0.att.time_faaaa", "blocks.0.att.gate.weight") if number == 5 else ())):
        if name not in tensors:
            raise ValueError(f"{name} is missing: of RWKV, versions 4 and 5.2 are known")
    return number


def untrained(tensors: Mapping[str, Tensor], number: int, divisor: float) -> SequenceModel:
    """A model of the sizes that these tensors have; `fill` checks the rest of them."""
    vocabulary, width = tensors["emb.weight"].shape
    depth = sum(re.fullmatch(r"blocks\.\d+\.ln1\.weight", name) is not None for name in tensors)
    options = {"mlp": len(tensors["blocks.0.ffn.key.weight"]) / width}
    if number == 5:
        options |= {"heads": len(tensors["blocks.0.att.time_decay"]), "divisor": divisor}
    return language_model(f"rwkv{number}", vocabulary, width, depth, options=options)


def _inner(model: Any) -> int:
    if model.blocks[0].channel_mix is None:
        raise ValueError("mlp must not be 0")
    return len(model.blocks[0].channel_mix.key.weight)


def _halvings(theirs: Mapping[str, Any], blocks: int) -> int:
    """How often transformers halves what stands behind so many blocks, when it does not train."""
    return int(blocks // theirs["rescale_every"]) if theirs["rescale_every"] > 0 else 0


def _place(fields: dict[str, Any], theirs: Mapping[str, Any], i: int) -> dict[str, Any]:
    """The halvings, made for fp16, change nothing but the share of eps in a norm."""
    return {**fields, "eps": fields["eps"] * 4.0 ** _halvings(theirs, i)}


def _every(model: Any) -> int:
    """Their rescale_every: the number of blocks in front of the first with another eps, 0 where none has."""
    eps = [block.norm.eps for block in model.blocks]
    every = next((i for i, value in enumerate(eps) if value != eps[0]), 0)
    if every and eps != [eps[0] * 4.0 ** (i // every) for i in range(len(eps))]:
        raise ValueError(f"eps differs among the blocks: {eps}")
    return every


RWKV = Family(
    model_type="rwkv",
    architecture="RwkvForCausalLM",
    block="rwkv4",
    keys=(
        Field(
            "intermediate_size",
            None,
            "mlp",
            lambda v, c: 4.0 if v is None else v / c["hidden_size"],
            _inner,
            (int, type(None)),
        ),
        Field("layer_norm_epsilon", 1e-5, "eps", save=lambda model: model.blocks[0].norm.eps),
        Field("rescale_every", 6, "", save=_every, positive=False),
        Must("attention_hidden_size", None, lambda v, c: v in (None, c["hidden_size"])),
    ),
    rows=_rows(1, "rwkv.embeddings.weight", "rwkv.blocks.{}", "rwkv.ln_out") + _of_4(1, "rwkv.blocks.{}"),
    # The last norm is made there without the eps of the config.
    head=lambda c: Head("layer", LAYER_EPS * 4.0 ** _halvings(c, c["num_hidden_layers"])),
    vocabulary=50277,
    width=4096,
    depth=32,
    tied=False,
    fixed={"norm": "layer"},
    free=("dropout", "index", "depth"),
    varying=("eps",),
    harmless=("context_length", "max_position_embeddings"),
    place=_place,
)
