"""A config of theirs as one of ours, and back, by the table of its family."""

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any

from recurra.blocks.table import BLOCKS, told
from recurra.interop.family import Family, Field, Head, Must

__all__ = ["ours", "theirs"]

Config = Mapping[str, Any]

# Keys that every config of transformers may have, and that say nothing of the logits.
_HARMLESS = (
    *("_name_or_path", "model_type", "transformers_version", "dtype", "torch_dtype", "tokenizer_class"),
    *("bos_token_id", "eos_token_id", "pad_token_id", "sep_token_id", "cls_token_id", "unk_token_id"),
    *("decoder_start_token_id", "use_cache", "return_dict", "output_attentions", "output_hidden_states"),
    *("id2label", "label2id", "problem_type", "finetuning_task", "task_specific_params", "torchscript"),
    *("is_encoder_decoder", "chunk_size_feed_forward", "attn_implementation", "auto_map"),
)


def _keys(family: Family) -> tuple[Field | Must, ...]:
    """Those of the whole model, those that any model may have, and those of the family."""
    return (
        Field("vocab_size", family.vocabulary, "vocabulary"),
        Field("hidden_size", family.width, "width"),
        Field("num_hidden_layers", family.depth, "depth"),
        Field("tie_word_embeddings", family.tied, "tied"),
        Must("architectures", None, lambda v, _: not v or family.architecture in v),
        Must("quantization_config", None),
        *family.keys,
    )


def _fits(must: Must, config: Config) -> bool:
    value = config[must.theirs]
    if must.fits is None:
        return bool(value == must.default)
    try:
        return must.fits(value, config)
    except (TypeError, ValueError):  # of another type than anybody thought of
        return False


def _check(key: Field | Must, config: Config) -> None:
    """Raise ValueError, naming the key, where its value is not one that we know."""
    value = config[key.theirs]
    if isinstance(key, Must):
        if not _fits(key, config):
            raise ValueError(f"key {key.theirs!r}: {value!r} is not supported")
        return
    kinds = key.kinds or (type(key.default),)
    accepted = (*kinds, int) if float in kinds else kinds
    if not isinstance(value, accepted) or (isinstance(value, bool) and bool not in kinds):
        raise ValueError(f"key {key.theirs!r} must be of type {kinds[0].__name__}, got {value!r}")
    if key.positive and isinstance(value, int | float) and bool not in kinds and not value > 0:
        raise ValueError(f"key {key.theirs!r} must be greater than 0, got {value!r}")


def _tell_unknown(family: Family, given: Config) -> None:
    known = {key.theirs for key in _keys(family)} | {*family.harmless, *_HARMLESS}
    if unknown := sorted(given.keys() - known):
        warnings.warn(f"keys that recurra does not know were not read: {', '.join(unknown)}", stacklevel=5)


def _block(family: Family, given: Config, place: Mapping[str, int]) -> dict[str, Any]:
    kind = BLOCKS[family.block].config
    known = {field.name for field in fields(kind)}
    return {"block": family.block, **told(kind(**given, **{k: v for k, v in place.items() if k in known}))}


def ours(family: Family, given: Config) -> dict[str, Any]:
    """A config for `SequenceModel.from_config`. Raises ValueError that names a key; warns of unknown ones."""
    keys = _keys(family)
    config = {key.theirs: key.default for key in keys} | dict(given)
    for key in keys:
        _check(key, config)
    _tell_unknown(family, given)
    read = {key.ours: key.load(config[key.theirs], config) for key in keys if isinstance(key, Field)}
    read.pop("", None)
    sizes = {name: read.pop(name) for name in ("vocabulary", "tied", "depth")}
    depth, head, same = sizes.pop("depth"), family.head(config), {**family.fixed, **read}
    blocks = [
        _block(family, family.place(same, config, i), {"index": i, "depth": depth}) for i in range(depth)
    ]
    return {**sizes, "width": read["width"], **head._asdict(), "blocks": blocks}


def theirs(family: Family, model: Any) -> dict[str, Any]:
    """Their config of a model whose blocks are of the family's kind. Raises ValueError that says what they
    have no word for."""
    blocks, head = list(model.blocks), model.head
    _check_blocks(family, [block.config for block in blocks])
    config = {
        "model_type": family.model_type,
        "architectures": [family.architecture],
        "vocab_size": head.size,
        "hidden_size": head.width,
        "num_hidden_layers": len(blocks),
        "tie_word_embeddings": head.tied,
        # Ours know none, and without a word some configs mean token 0 or 2.
        **dict.fromkeys(("bos_token_id", "eos_token_id", "pad_token_id")),
    }
    for key in family.keys:
        if isinstance(key, Field):
            value = key.save(model) if key.save else getattr(blocks[0].config, key.ours)
            if config.setdefault(key.theirs, value) != value:
                raise ValueError(f"{key.ours}: {key.theirs} would have to be {value} and not to be")
    has, wanted = Head(head.norm_name, head.norm.eps, head.cap), family.head(config)
    if has != wanted:
        raise ValueError(f"the head must have {wanted._asdict()}, has {has._asdict()}")
    ours(family, config)  # for what it raises
    return config


def _check_blocks(family: Family, configs: Sequence[Any]) -> None:
    """Raise ValueError where blocks differ, or are not what a block of the family always is."""
    for field in fields(configs[0]):
        values = [getattr(config, field.name) for config in configs]
        wanted = family.fixed.get(field.name, values[0])
        free = field.name in (*family.free, *family.varying)
        if wrong := [value for value in values if value != wanted and not free]:
            raise ValueError(f"{field.name} must be {wanted!r} in all blocks, got {wrong[0]!r}")
