"""Mamba: the mixer between its projections in three kernels, the step of a block as one call."""

from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import pad

from recurra.interop.accelerated.general import plus, stepping, usual
from recurra.interop.accelerated.steps import Recordings, Steps
from recurra.ops.activation import activate
from recurra.ops.causal_conv import causal_conv, conv_step
from recurra.ops.linear import state_dtype
from recurra.ops.project import project
from recurra.ops.selective import StepParameters, layer_step, selective
from recurra.parts.kept import Kept
from recurra.state import ConvState, SelectiveState

__all__ = ["block", "mixer"]


def mixer(
    module: Any, hidden_states: Tensor, cache_params: Any = None, attention_mask: Tensor | None = None
) -> Tensor:
    """MambaMixer's of a whole sequence from a fresh start; what goes on from a cache is left to its own."""
    direct = (module.conv1d.weight, module.A_log, module.D, module.dt_proj.weight, module.dt_proj.bias)
    layer = _layer(module, cache_params)
    fresh = cache_params is None or (layer is not None and not layer.has_previous_state[0])
    if not fresh or not usual(hidden_states, attention_mask, *direct):
        y: Tensor = type(module).forward(module, hidden_states, cache_params, attention_mask)
        return y
    x = _masked(hidden_states, attention_mask)
    u, z = module.in_proj(x).chunk(2, -1)
    if layer is not None:
        layer.update_conv_state(u.mT, conv_kernel_size=module.conv_kernel_size)
    u, _ = causal_conv(u, module.conv1d.weight[:, 0], module.conv1d.bias)
    u = _masked(_activated(module, u), attention_mask)
    sizes = [module.time_step_rank, module.ssm_state_size, module.ssm_state_size]
    r, B, C = module.x_proj(u).split(sizes, -1)
    delta = project(r, module.dt_proj.weight)
    bias = _or_zeros(module.dt_proj.bias, module.D)
    y, state = selective(u, delta, _rates(module), B, C, module.D, bias, z)
    if layer is not None:
        layer.update_recurrent_state(state.h.mT)
    out: Tensor = module.out_proj(y.to(hidden_states.dtype))
    return out


def _masked(x: Tensor, mask: Tensor | None) -> Tensor:
    """Padding as zeros, which write nothing to a state."""
    return x if mask is None else (x * mask[:, :, None]).to(x.dtype)


def _activated(module: Any, u: Tensor) -> Tensor:
    y: Tensor = activate("silu", u) if module.activation == "silu" else module.act(u)
    return y


def _rates(module: Any) -> Tensor:
    """A [D, N], in at least fp32."""
    A_log: Tensor = module.A_log
    return -A_log.to(state_dtype(A_log.dtype)).exp()


def _or_zeros(bias: Tensor | None, like: Tensor) -> Tensor:
    return torch.zeros_like(like) if bias is None else bias


def _layer(module: Any, cache_params: Any) -> Any:
    """What a cache holds of this layer; None where there is none, or none such as is known here."""
    layers = getattr(cache_params, "layers", ())
    layer = layers[module.layer_idx] if module.layer_idx < len(layers) else None
    states = getattr(layer, "recurrent_states", None)
    known = isinstance(states, dict) and len(states) == 1
    return layer if known and not getattr(layer, "record_past", True) else None


# ----------------------------------------------------------------------------------------------
# One token. A cache holds the last K inputs of the convolution [B, D, K] and h [B, D, N]; the kernels want
# channels side by side: after the first step the cache's tensors are views of such memory, of Steps.


def block(
    module: Any,
    recordings: Recordings,
    hidden_states: Tensor,
    cache_params: Any = None,
    attention_mask: Tensor | None = None,
) -> Tensor:
    """MambaBlock's: a step where a cache goes on, else its own."""
    layer = _layer(module, cache_params) if attention_mask is None and stepping(hidden_states) else None
    going = layer is not None and layer.has_previous_state[0]
    steps = _steps(module, recordings, layer) if going else None
    if steps is None:
        y: Tensor = type(module).forward(
            module, hidden_states, cache_params=cache_params, attention_mask=attention_mask
        )
        return y
    return steps(hidden_states[:, 0])[:, None]


def _steps(module: Any, recordings: Recordings, layer: Any) -> Steps | None:
    """From what the cache holds, whoever wrote it: a beam search gives it new tensors at every token."""
    places = layer.conv_states, layer.recurrent_states

    def begin() -> Steps:
        memory = (place[0].mT.clone(memory_format=torch.contiguous_format) for place in places)
        return Steps(module, partial(_step, module, Kept()), *memory)

    steps = recordings.of(layer, (), module, begin)
    for place, memory in zip(places, () if steps is None else steps.state, strict=False):
        if place[0].data_ptr() != memory.data_ptr():
            place[0] = memory.copy_(place[0].mT).mT
    return steps


class _Constants(NamedTuple):
    """Of the parameters alone: taps [K + 1, D] and bias of the convolution, and the recurrence's."""

    taps: Tensor
    bias: Tensor
    recurrence: StepParameters


def _constants(module: Any) -> _Constants:
    weight, D, dt = module.conv1d.weight[:, 0], module.D, module.dt_proj
    # A cache holds one input more than the convolution reads: it meets a zero.
    taps = pad(weight, (1, 0)).t().contiguous()
    A = _rates(module).t().contiguous()
    return _Constants(
        taps,
        _or_zeros(module.conv1d.bias, D),
        StepParameters(dt.weight.t().contiguous(), A, D.to(A.dtype), _or_zeros(dt.bias, D).to(A.dtype)),
    )


def _step(module: Any, kept: Kept, x: Tensor, conv: Tensor, h: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """y [B, D], the last K inputs [B, K, D'] and h [B, N, D'] from x [B, D] and those before."""
    mixer, dt = module.mixer, module.mixer.dt_proj
    known = (mixer.conv1d.weight, mixer.conv1d.bias, mixer.A_log, mixer.D, dt.weight, dt.bias)
    constants = kept(partial(_constants, mixer), *(p for p in known if p is not None))
    u, z = mixer.in_proj(module.norm(x.to(module.norm.weight.dtype))).chunk(2, -1)
    before = ConvState(conv.to(state_dtype(conv.dtype)))
    u, after = conv_step(u, before, constants.taps.t(), constants.bias)
    u = _activated(mixer, u)
    y, state = layer_step(u, mixer.x_proj(u), z, constants.recurrence, SelectiveState(h))
    return plus(mixer.out_proj, y, x.float() if module.residual_in_fp32 else x), after.x, state.h
