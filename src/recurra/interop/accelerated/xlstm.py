"""xLSTM as of xLSTM 7B: the matrix memory on `ops.outer`, the step of a block as one call.

transformers takes its blocks from the authors' package where that is installed, and has copies of them
where it is not: both are known, their arguments have different names.
"""

from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from recurra.interop.accelerated.general import plus, stepping, usual
from recurra.interop.accelerated.steps import Recordings, Steps
from recurra.ops.activation import activate, soft_cap
from recurra.ops.causal_conv import conv_step
from recurra.ops.norm import add_rms_norm, head_norm
from recurra.ops.outer import outer, take_outer_step
from recurra.parts.kept import Kept
from recurra.state import ConvState, OuterState

__all__ = ["authors_memory", "block", "feed_forward", "head_layer_norm", "memory", "rms_norm"]

# What an mLSTM remembers: C [B, H, K, V], n [B, H, K] and the max [B, H, 1].
State = tuple[Tensor, Tensor, Tensor]


def memory(  # noqa: PLR0913, PLR0917 - the arguments are theirs
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    igate: Tensor,
    fgate: Tensor,
    c_initial: Tensor | None = None,
    n_initial: Tensor | None = None,
    m_initial: Tensor | None = None,
    return_last_states: bool | None = None,
    mode: str | None = None,
) -> Any:
    """xLSTMBackend's. Departs from it in leaving out the 1e-6 that it adds to a divisor."""
    given = (query, key, value, igate, fgate, c_initial, n_initial, m_initial)
    if not usual(*given):
        return type(module).forward(module, *given, return_last_states, mode)
    # [B, H, T, ...] there, [B, T, H, ...] here: without a copy.
    q, k, v, i, f = (x.transpose(1, 2) for x in given[:5] if x is not None)
    state = None
    if c_initial is not None and n_initial is not None and m_initial is not None:
        state = OuterState(c_initial, n_initial, m_initial[..., 0])
    gates = logsigmoid(f.to(q.dtype)), i.to(q.dtype)
    y, last = outer(q * q.shape[-1] ** -0.5, k, v, *gates, state)
    y = y.transpose(1, 2)
    return (y, (last.c, last.n, last.max[..., None])) if _asked(module, return_last_states, mode) else y


def _asked(module: Any, return_last_states: bool | None, mode: str | None) -> bool:
    """Whether the state is asked for, by the call or by the config: outside of training it always is."""
    config = module.config
    asked = config.return_last_states if return_last_states is None else return_last_states
    return bool(asked) or "train" not in (mode or config.mode)


def authors_memory(  # noqa: PLR0913, PLR0917 - the arguments are theirs
    module: Any,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    i: Tensor,
    f: Tensor,
    c_initial: Tensor | None = None,
    n_initial: Tensor | None = None,
    m_initial: Tensor | None = None,
    return_last_states: bool | None = None,
    mode: str | None = None,
) -> Any:
    """mLSTMBackend's; its kernels of another equation, with sigmoid input gates, are left to themselves."""
    given = (q, k, v, i, f, c_initial, n_initial, m_initial, return_last_states, mode)
    if _other_equation(module):
        return type(module).forward(module, *given)
    return memory(module, *given)


def _other_equation(module: Any) -> bool:
    return "siging" in module.config.chunkwise_kernel


def rms_norm(module: Any, x: Tensor) -> Tensor:
    """xLSTMRMSNorm's."""
    weight = module.weight
    if weight is None or module.bias is not None or weight.dtype != x.dtype or not usual(x, weight):
        y: Tensor = type(module).forward(module, x)
        return y
    return add_rms_norm(x, None, weight, module.eps)[1]


def head_layer_norm(module: Any, x: Tensor) -> Tensor:
    """xLSTMMultiHeadLayerNorm's."""
    weight, bias, heads = module.weight, module.bias, x.shape[-2:]
    if weight is None or weight.dtype != x.dtype or not usual(x, weight, bias):
        y: Tensor = type(module).forward(module, x)
        return y
    zeros = torch.zeros_like(weight) if bias is None else bias
    return head_norm(x, weight.view(heads), zeros.view(heads), module.eps).flatten(-2)


def feed_forward(module: Any, x: Tensor) -> Tensor:
    """xLSTMFeedForward's."""
    y: Tensor = module.proj_down(_hidden(module, x))
    return y


def _hidden(module: Any, x: Tensor) -> Tensor:
    """silu(G x) U x."""
    if module.config.weight_mode == "single":
        return activate("silu", module.proj_up_gate(x), module.proj_up(x))
    return activate("silu", *module.proj_up_gate_z(x).chunk(2, -1))


# ----------------------------------------------------------------------------------------------
# One token. The kernels write to the cache's own tensors.


def block(
    module: Any, recordings: Recordings, x: Tensor, state: State | None = None
) -> tuple[Tensor, State | None]:
    """xLSTMBlock's: a step where a state is given with one token, else its own."""
    if state is not None and stepping(x) and _serves(module.mlstm_layer, state):
        steps = _steps(module, recordings, state)
        if steps is not None:
            return steps(x[:, 0])[:, None], state
    y: tuple[Tensor, State | None] = type(module).forward(module, x, state)
    return y


def _serves(layer: Any, state: State) -> bool:
    plain = all(x.is_contiguous() for x in state) and not _other_equation(layer.mlstm_backend)
    return plain and layer.multihead_norm.weight is not None


def _steps(module: Any, recordings: Recordings, state: State) -> Steps | None:
    def begin() -> Steps:
        # Views of the same memory: nothing that a recording holds may keep its key alive.
        c, n, top = (x.detach() for x in state)
        return Steps(module, partial(_step, module, Kept()), c, n, top[..., 0])

    return recordings.of(state[0], state[1:], module, begin)


class _Constants(NamedTuple):
    """Factor and shift for each channel of the queries, and the bias of the norm."""

    scale: Tensor
    shift: Tensor
    bias: Tensor


def _constants(layer: Any, q: Tensor) -> _Constants:
    scale = torch.full_like(q[0], (q.shape[-1] // layer.config.num_heads) ** -0.5)
    norm = layer.multihead_norm
    return _Constants(
        scale, torch.zeros_like(scale), torch.zeros_like(norm.weight) if norm.bias is None else norm.bias
    )


def _affine(x: Tensor, factor: Tensor, shift: Tensor) -> Tensor:
    """factor x + shift for each channel of x [B, C]: a convolution of one tap, which can be recorded."""
    return conv_step(x, ConvState(x.new_empty(len(x), 0, len(factor))), factor[:, None], shift)[0]


def _preactivations(layer: Any, x: Tensor) -> tuple[Tensor, ...]:
    """q, k, v, output, input and forget gate."""
    if layer.config.weight_mode == "single":
        names = ("q", "k", "v", "ogate_preact", "igate_preact", "fgate_preact")
        return tuple(getattr(layer, name)(x) for name in names)
    sizes = [layer.qk_dim, layer.qk_dim, layer.v_dim, layer.v_dim]
    return *layer.qkv_opreact(x).split(sizes, -1), *layer.ifgate_preact(x).chunk(2, -1)


def _step(
    module: Any, kept: Kept, x: Tensor, c: Tensor, n: Tensor, top: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """y [B, D] and the state from x [B, D] and the state before."""
    layer, norm = module.mlstm_layer, module.mlstm_layer.multihead_norm
    q, k, v, o, i, f = _preactivations(layer, module.norm_mlstm(x))
    heads, cap = layer.config.num_heads, layer.config.gate_soft_cap
    i, f = (g if cap is None else soft_cap(g, cap) for g in (i, f))
    constants = kept(partial(_constants, layer, q), norm.weight)
    # The scale is of the queries alone: ours would be in the state too.
    q = _affine(q, constants.scale, constants.shift)
    q, k, v = (r.unflatten(-1, (heads, -1)) for r in (q, k, v))
    y, last = take_outer_step(q, k, v, activate("log_sigmoid", f), i, OuterState(c, n, top))
    shape = y.shape[-2:]
    y = head_norm(y, norm.weight.view(shape), constants.bias.view(shape), norm.eps).flatten(-2)
    x = plus(layer.out_proj, activate("sigmoid", o, y), x)
    y = plus(module.ffn.proj_down, _hidden(module.ffn, module.norm_ffn(x)), x)
    return y, last.c, last.n, last.max
