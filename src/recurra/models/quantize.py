"""A model whose matrices are read in fewer bytes, to write with and to evaluate."""

from typing import Any, TypeVar

import torch
from torch import nn

from recurra.blocks.slstm import SLSTMBlock
from recurra.layers.aaren import AarenLayer
from recurra.layers.cell import CellLayer
from recurra.layers.linear_layer import LinearLayer
from recurra.models.head import LanguageHead
from recurra.models.saved import Saved
from recurra.ops.quantized import QUANTIZED, Quantized
from recurra.parts.linear import Linear

__all__ = ["WEIGHTS", "quantize"]

M = TypeVar("M", bound=Saved)

WEIGHTS = ("fp32", *QUANTIZED)
_MATRICES: tuple[tuple[type[nn.Module], tuple[str, ...]], ...] = (
    (LinearLayer, ("weight_ih",)),
    (AarenLayer, ("weight_ih",)),
    (CellLayer, ("weight_ih", "weight_hh")),
    (SLSTMBlock, ("gates", "weight_hh")),
    (LanguageHead, ("weight",)),
    (Linear, ("weight",)),
)
# Mamba's kernel of a step multiplies by this one itself.
_APART = "dt_proj"


def quantize(model: M, weights: str) -> M:
    """The model itself, its matrices now in bf16, or in int8 with one fp32 scale a row (`ops.Quantized`).

    weights: one of `WEIGHTS`; fp32: nothing is done. The maps of blocks and head; a tied head gets a matrix
    of its own. Activations and states stay fp32, and so does what is no product with a large matrix: the
    embedding, norms, biases, filters, Mamba's W_dt, mLSTM's fours, constants of recurrences. It is not to be
    trained or saved, but made anew of the fp32 model. Raises ValueError that names the argument.
    """
    if weights not in WEIGHTS:
        raise ValueError(f"weights must be one of {', '.join(WEIGHTS)}, got {weights!r}")
    if weights == "fp32":
        return model
    if any(isinstance(part, Quantized) for part in model.modules()):
        raise ValueError("model is quantized already")
    if wrong := {p.dtype for p in model.parameters()} - {torch.float32}:
        raise ValueError(f"model must be in fp32, got {wrong.pop()}: call its float() first")
    for name, part in [*model.named_modules()]:
        for field in () if name.endswith(_APART) else _fields(part):
            weight: Any = part.matrix if isinstance(part, LanguageHead) else getattr(part, field)
            made = Quantized.of(weight, weights)
            delattr(part, field)
            setattr(part, field, made)
    return model.eval().requires_grad_(False)


def _fields(part: nn.Module) -> tuple[str, ...]:
    """The names of its matrices."""
    return next((fields for kind, fields in _MATRICES if isinstance(part, kind)), ())
