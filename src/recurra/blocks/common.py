"""What blocks do with their input and output, whatever stands between."""

import torch
from torch import Tensor, nn
from torch.nn.functional import dropout

from recurra.parts.norm import LayerNorm, RMSNorm

__all__ = ["add_mlp", "add_residual", "check_width", "end_rows"]


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
