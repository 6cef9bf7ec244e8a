"""Linear maps and norms, as every family has them, and when the kernels may serve at all."""

from functools import partial
from typing import Any

from torch import Tensor, nn

from recurra.ops.norm import add_layer_norm, add_rms_norm
from recurra.ops.project import project
from recurra.ops.registry import unobserved

__all__ = ["layer_norm", "linear", "plus", "rms_norm", "stepping", "usual"]

_KINDS = (Tensor, nn.Parameter)


def usual(*tensors: Tensor | None) -> bool:
    """True for tensors on the CPU that are of no subclass of Tensor, as quantised or distributed ones are."""
    return all(t is None or (type(t) in _KINDS and t.is_cpu) for t in tensors)


def stepping(x: Tensor) -> bool:
    """True for one token [B, 1, D] with nobody watching: no gradient, compiler, autocast or transform."""
    return x.ndim == 3 and x.shape[1] == 1 and usual(x) and unobserved(x)


def linear(module: Any, input: Tensor, added: Tensor | None = None) -> Tensor:  # noqa: A002 - nn.Linear's name
    """nn.Linear's, and its sum with `added`."""
    if usual(input, module.weight, module.bias):
        return project(input, module.weight, module.bias, added)
    y: Tensor = type(module).forward(module, input)
    return y if added is None else y + added


def plus(module: Any, y: Tensor, x: Tensor) -> Tensor:
    """x + module(y), in one pass where the module is a linear map of ours."""
    forward = vars(module).get("forward")
    fused = isinstance(forward, partial) and forward.func is linear and x.dtype == y.dtype
    total: Tensor = module(y, x) if fused else x + module(y)
    return total


def layer_norm(module: Any, input: Tensor) -> Tensor:  # noqa: A002 - nn.LayerNorm's name
    """nn.LayerNorm's."""
    weight, bias = module.weight, module.bias
    if weight is None or bias is None or weight.ndim != 1 or not _one_kind(input, weight, bias):
        y: Tensor = type(module).forward(module, input)
        return y
    return add_layer_norm(input, None, weight, bias, module.eps)[1]


def rms_norm(module: Any, hidden_states: Tensor) -> Tensor:
    """Mamba's."""
    if not _one_kind(hidden_states, module.weight):
        y: Tensor = type(module).forward(module, hidden_states)
        return y
    return add_rms_norm(hidden_states, None, module.weight, module.variance_epsilon)[1]


def _one_kind(x: Tensor, *parameters: Tensor) -> bool:
    return usual(x, *parameters) and all(p.dtype == x.dtype for p in parameters)
