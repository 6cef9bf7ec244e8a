"""Every block of the library: models, tests, command line and docs read this table."""

from collections.abc import Mapping
from dataclasses import asdict, fields
from typing import Any, NamedTuple, TypeVar, get_origin, get_type_hints

from torch import nn

from recurra.blocks.aaren import AarenBlock, AarenConfig
from recurra.blocks.mamba import MambaBlock, MambaConfig
from recurra.blocks.minrnn import MinRNNBlock, MinRNNConfig
from recurra.blocks.mlstm import MLSTMBlock, MLSTMConfig
from recurra.blocks.rwkv4 import RWKV4Block, RWKV4Config
from recurra.blocks.rwkv5 import RWKV5Block, RWKV5Config
from recurra.blocks.s4 import S4Block, S4Config
from recurra.blocks.slstm import SLSTMBlock, SLSTMConfig
from recurra.blocks.transformer import TransformerBlock, TransformerConfig
from recurra.blocks.xlstm_large import XLSTMLargeBlock, XLSTMLargeConfig

__all__ = ["BLOCKS", "Row", "build", "configurable", "describe", "parse", "told"]

C = TypeVar("C")


class Row(NamedTuple):
    """One block: its config, what its name already says of it, its equation, and where it comes from."""

    config: type[Any]
    block: type[nn.Module]
    fixed: Mapping[str, object]
    equation: str
    paper: str


BLOCKS: dict[str, Row] = {
    "mingru": Row(
        MinRNNConfig,
        MinRNNBlock,
        {"layer": "mingru"},
        "h = (1 - z) h + z g(k)",
        "arXiv 2410.01201, section 3.1",
    ),
    "minlstm": Row(
        MinRNNConfig,
        MinRNNBlock,
        {"layer": "minlstm"},
        "h = (f h + i g(k)) / (f + i)",
        "arXiv 2410.01201, section 3.2",
    ),
    "gru": Row(
        MinRNNConfig,
        MinRNNBlock,
        {"layer": "gru"},
        "h = (1 - z) n + z h, all gates of x and h",
        "arXiv 1406.1078, equations 5 to 8",
    ),
    "lstm": Row(
        MinRNNConfig,
        MinRNNBlock,
        {"layer": "lstm"},
        "c = f c + i g, h = o tanh(c), all gates of x and h",
        "Gers et al., 2000 (doi 10.1162/089976600300015015)",
    ),
    "aaren": Row(
        AarenConfig,
        AarenBlock,
        {},
        "y = softmax(q k' / sqrt(C)) v over the past, one learned q",
        "arXiv 2405.13956, section 3",
    ),
    "rwkv4": Row(
        RWKV4Config,
        RWKV4Block,
        {},
        "y = sum e^(k_j - (t - 1 - j) w) v_j / sum e^(k_j - (t - 1 - j) w), j = t: e^(k + u)",
        "arXiv 2305.13048, section 3",
    ),
    "slstm": Row(
        SLSTMConfig,
        SLSTMBlock,
        {},
        "c = f c + i z, n = f n + i, h = o c / n, i = exp, all gates of x and of h in its head",
        "arXiv 2405.04517, section 2.2",
    ),
    "mlstm": Row(
        MLSTMConfig,
        MLSTMBlock,
        {},
        "C = f C + i k v', n = f n + i k, y = C' q / max(|n q|, 1), i = exp",
        "arXiv 2405.04517, section 2.3",
    ),
    "xlstm_large": Row(
        XLSTMLargeConfig,
        XLSTMLargeBlock,
        {},
        "mLSTM of the block's own width, o = sigmoid(W x), i and f within 15 tanh; a SwiGLU behind it",
        "arXiv 2503.13427",
    ),
    "rwkv5": Row(
        RWKV5Config,
        RWKV5Block,
        {},
        "C = diag(w) C + k v', y = (C_before + diag(u) k v')' r",
        "arXiv 2404.05892, section 4.1",
    ),
    "s4": Row(
        S4Config,
        S4Block,
        {"layer": "s4", "init": "legs", "discretisation": "bilinear"},
        "h' = A h + B u, y = 2 Re(c h) + d u, A diagonal minus rank one",
        "arXiv 2111.00396, section 3",
    ),
    "s4d": Row(
        S4Config,
        S4Block,
        {"layer": "s4d"},
        "h = a h + b u, y = 2 Re(c h) + d u, a diagonal, complex, the same at every step",
        "arXiv 2206.11893, section 4",
    ),
    "mamba": Row(
        MambaConfig,
        MambaBlock,
        {},
        "h = exp(d A) h + d B x, y = (C h + D x) silu(z), d, B, C of x",
        "arXiv 2312.00752, sections 3.2 and 3.4",
    ),
    "transformer": Row(
        TransformerConfig,
        TransformerBlock,
        {},
        "y = softmax(q k' / sqrt(C)) v over the past, rotary positions",
        "arXiv 1706.03762, section 3; rotary 2104.09864; SwiGLU 2002.05202",
    ),
}


def configurable(row: Row) -> list[str]:
    """The fields of a block's config that its name leaves open."""
    return [field.name for field in fields(row.config) if field.name not in row.fixed]


def parse(kind: type[C], given: Mapping[str, Any], fixed: Mapping[str, Any]) -> C:
    """A config dataclass from JSON: no key unknown, none missing but a `later` one, each of its type."""
    hints = get_type_hints(kind)
    known = {f.name: f for f in fields(kind) if f.name not in fixed}  # type: ignore[arg-type]
    if unknown := [key for key in given if key not in known]:
        raise ValueError(f"unknown key {unknown[0]!r}; known are {', '.join(known)}")
    for name, field in known.items():
        if name in given:
            check_type(name, given[name], hints[name])
        elif "later" not in field.metadata:
            raise ValueError(f"key {name!r} is missing")
    return kind(**given, **fixed)


def told(config: Any) -> dict[str, Any]:
    """A config dataclass as JSON, which `parse` reads: without the `later` fields that have their default."""
    silent = {
        f.name for f in fields(config) if "later" in f.metadata and getattr(config, f.name) == f.default
    }
    return {name: value for name, value in asdict(config).items() if name not in silent}


def check_type(name: str, value: object, kind: type) -> None:
    """Raise ValueError unless value is of that type; an int may stand for a float, a bool for nothing."""
    kind = get_origin(kind) or kind
    accepted = (int, float) if kind is float else (kind,)
    if not isinstance(value, accepted) or (isinstance(value, bool) and kind is not bool):
        raise ValueError(f"key {name!r} must be of type {kind.__name__}, got {value!r}")


def describe(block: Any) -> dict[str, Any]:
    """A block as JSON: its name in the table and the rest of its config; `build` reads it."""
    config = told(block.config)
    for name, row in BLOCKS.items():
        if type(block) is row.block and row.fixed.items() <= config.items():
            return {"block": name, **{k: v for k, v in config.items() if k not in row.fixed}}
    raise TypeError(f"{type(block).__name__} is no block of the table")


def build(given: Mapping[str, Any]) -> nn.Module:
    """The block that `describe` described. Raises ValueError that names the key."""
    rest = dict(given)
    name = rest.pop("block", None)
    if not isinstance(name, str) or name not in BLOCKS:
        raise ValueError(f"key 'block' must be one of {', '.join(BLOCKS)}, got {name!r}")
    row = BLOCKS[name]
    return row.block(parse(row.config, rest, row.fixed))
