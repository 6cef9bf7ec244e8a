"""What blocks do with their input and output, whatever stands between."""

from dataclasses import field
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.functional import dropout

from recurra.parts.norm import NORMS, LayerNorm, RMSNorm

__all__ = ["add_mlp", "add_residual", "check_fields", "check_width", "end_rows", "later"]

T = TypeVar("T")


def later(default: T) -> T:
    """A field of a config that older files lack: a file leaves it out where it has this default."""
    made: T = field(default=default, metadata={"later": True})
    return made


def check_fields(config: Any) -> None:
    """Raise ValueError where a field that configs of blocks share is out of its range; mlp 0: without."""
    if config.width < 1:
        raise ValueError(f"width must be at least 1, got {config.width}")
    if hasattr(config, "index") and not 0 <= config.index < config.depth:
        raise ValueError(f"index must lie in 0..depth - 1, got {config.index} of depth {config.depth}")
    if hasattr(config, "mlp") and not 0 <= config.mlp < float("inf"):
        raise ValueError(f"mlp must not be negative, got {config.mlp}")
    if config.norm not in NORMS:
        raise ValueError(f"norm must be one of {', '.join(NORMS)}, got {config.norm!r}")
    if hasattr(config, "eps") and not 0 <= config.eps < float("inf"):
        raise ValueError(f"eps must not be negative, got {config.eps}")
    if not 0 <= config.dropout < 1:
        raise ValueError(f"dropout must lie in [0, 1), got {config.dropout}")


def check_width(x: Tensor, axes: tuple[str, ...], width: int) -> None:
    """Raise ValueError where x is not [*axes, width]."""
    if x.ndim != len(axes) + 1 or x.shape[-1] != width:
        raise ValueError(f"x must be [{', '.join(axes)}, {width}], got {list(x.shape)}")


def end_rows(y: Tensor, lengths: Tensor | None) -> Tensor:
    """Zeros beyond lengths [B] in y [B, T, width]."""
    if lengths is None:
        return y
    alive = torch.arange(y.shape[1], device=y.device) < lengths.to(y.device)[:, None]
    return y.masked_fill(~alive[..., None], 0)


def add_residual(part: nn.Module, y: Tensor, x: Tensor, p: float) -> Tensor:
    """x + part(y), which is dropped with probability p; without that, the sum goes with the product."""
    total: Tensor = x + dropout(part(y), p) if p else part(y, x)
    return total


def add_mlp(mlp: nn.Module, norm: RMSNorm | LayerNorm, y: Tensor, x: Tensor, p: float) -> Tensor:
    """s + mlp(norm(s)) with s = x + y; y and what the MLP makes are each dropped with probability p."""
    total, normed = norm.after(x, dropout(y, p) if p else y)
    return add_residual(mlp, normed, total, p)
