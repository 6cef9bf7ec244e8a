"""Mamba as transformers has it (model type mamba)."""

from typing import Any

from recurra.interop.family import Family, Field, Head, Must, Row, reshaped

__all__ = ["MAMBA"]

_SAME = (
    *("norm.weight", "in_proj.weight", "in_proj.bias", "conv1d.bias", "x_proj.weight"),
    *("dt_proj.weight", "dt_proj.bias", "A_log", "D", "out_proj.weight", "out_proj.bias"),
)


def _rows() -> tuple[Row, ...]:
    def ours(name: str) -> str:
        return "blocks.{}." + name.replace("conv1d", "conv")

    def theirs(name: str) -> str:
        return "backbone.layers.{}." + (name if name.startswith("norm") else f"mixer.{name}")

    return (
        Row("embed.weight", ("backbone.embeddings.weight",)),
        *(Row(ours(name), (theirs(name),)) for name in _SAME),
        reshaped(ours("conv1d.weight"), theirs("conv1d.weight"), lambda x, _: x[:, None], 2),
        Row("head.norm.weight", ("backbone.norm_f.weight",)),
        Row("head.weight", ("lm_head.weight",)),
    )


def _expand(model: Any) -> int:
    """Theirs is a whole number."""
    config = model.blocks[0].config
    if config.hidden % config.width:
        raise ValueError(f"expansion must be a whole number, got {config.expansion}")
    return int(config.hidden // config.width)


MAMBA = Family(
    model_type="mamba",
    architecture="MambaForCausalLM",
    block="mamba",
    keys=(
        Field("state_size", 16, "state"),
        Field("conv_kernel", 4, "conv"),
        # The inner width is cut off there, and rounded here.
        Field(
            "expand",
            2,
            "expansion",
            lambda v, c: int(v * c["hidden_size"]) / c["hidden_size"],
            _expand,
            (int, float),
        ),
        Field(
            "time_step_rank",
            "auto",
            "rank",
            lambda v, _: 0 if v == "auto" else v,
            lambda model: model.blocks[0].config.dt_rank,
            (str, int),
        ),
        Field("time_step_min", 0.001, "dt_min"),
        Field("time_step_max", 0.1, "dt_max"),
        Field("use_bias", False, "bias"),
        Field("layer_norm_epsilon", 1e-5, "eps", save=lambda model: model.blocks[0].norm.eps),
        Must("use_conv_bias", True),
        Must("hidden_act", "silu"),
        Must("intermediate_size", None, lambda v, c: v in (None, int(c["expand"] * c["hidden_size"]))),
        # Of the authors' own configs, which some files still hold.
        Must("rms_norm", True),
        Must("ssm_cfg", {}),
    ),
    rows=_rows(),
    head=lambda c: Head("rms", c["layer_norm_epsilon"]),
    vocabulary=50280,
    width=768,
    depth=32,
    tied=True,
    fixed={"norm": "rms"},
    free=("dropout",),
    varying=(),
    harmless=(
        *("initializer_range", "residual_in_fp32", "time_step_scale", "time_step_init_scheme"),
        *("time_step_floor", "rescale_prenorm_residual", "use_mambapy", "use_associative_scan"),
        *("d_inner", "d_model", "n_layer", "fused_add_norm", "pad_vocab_size_multiple"),
    ),
    aliases={"backbone.embedding.weight": "backbone.embeddings.weight"},
)
