"""How long a token lives in a state: the factors by which it forgets, half-lives, and Jacobians over time."""

import math
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from recurra.blocks.mamba import MambaBlock
from recurra.blocks.minrnn import MinRNNBlock
from recurra.blocks.mlstm import MLSTMBlock
from recurra.blocks.rwkv4 import RWKV4Block
from recurra.blocks.rwkv5 import RWKV5Block
from recurra.blocks.xlstm_large import XLSTMLargeBlock
from recurra.interp.places import subject
from recurra.interp.subject import Own, on_input, on_output
from recurra.layers.linear_layer import LinearLayer
from recurra.ops.activation import soft_cap
from recurra.ops.gated import FUSIONS
from recurra.ops.project import project
from recurra.state import KVState, apply

__all__ = ["decays", "half_life", "state_jacobian", "survival"]

# ----------------------------------------------------------------------------------------------
# The factors, from what passes at one of a block's modules: [B, T, ...], in the shape of its state.


def _minrnn(block: Any, x: Tensor) -> Tensor | None:
    """Of minGRU and minLSTM, [B, T, H]; GRU and LSTM read their own past, no product of gates tells all."""
    if not isinstance(block.layer, LinearLayer):
        return None
    fused = project(x, block.layer.weight_ih, block.layer.bias_ih)
    return FUSIONS[block.layer.fusion].gates(fused)[0]


def _mamba(block: Any, u: Tensor) -> Tensor:
    """exp(dt A), [B, T, N, D]."""
    delta: Tensor = block.dt_proj(block.x_proj(u)[..., : block.config.dt_rank])
    dt, rates = -nn.functional.logsigmoid(-delta), -block.A_log.exp().t()
    factors: Tensor = (dt[..., None, :] * rates).exp()
    return factors


def _rwkv(block: Any, k: Tensor) -> Tensor:
    """exp(-exp(decay)), the same at every step; of RWKV-4 [B, T, D], of RWKV-5 [B, T, D] for D keys."""
    factors: Tensor = (-block.time_mix.decay.exp()).exp().expand(k.shape)
    return factors


def _mlstm(block: Any, gates: Tensor) -> Tensor:
    """sigmoid(f), [B, T, H], of a matrix in units of one."""
    return gates.chunk(2, -1)[1].sigmoid()


def _xlstm_large(block: Any, gates: Tensor) -> Tensor:
    return _mlstm(block, soft_cap(gates, block.config.gate_cap))


Factors = Callable[[Any, Tensor], Tensor | None]
# The module, whether what it reads or what it gives is looked at, and what follows of that.
_FACTORS: dict[type[nn.Module], tuple[str, Any, Factors]] = {
    MinRNNBlock: ("layer", on_input, _minrnn),
    MambaBlock: ("x_proj", on_input, _mamba),
    RWKV4Block: ("time_mix.key", on_output, _rwkv),
    RWKV5Block: ("time_mix.key", on_output, _rwkv),
    MLSTMBlock: ("gates", on_output, _mlstm),
    XLSTMLargeBlock: ("gates", on_output, _xlstm_large),
}


def _own(model: Any) -> Own:
    whole = subject(model)
    if not isinstance(whole, Own):
        raise TypeError(f"model must be of recurra (see from_transformers), got {type(model).__name__}")
    return whole


def _passed(whole: Own, tapped: Mapping[int, tuple[nn.Module, Any]], tokens: Tensor) -> dict[int, Tensor]:
    """What these modules read or give of tokens [B, T], by the index of their block."""
    found: dict[int, Tensor] = {}

    def keep(i: int, x: Tensor) -> Tensor:
        found[i] = x
        return x

    with ExitStack() as stack:
        for i, (module, tap) in tapped.items():
            stack.callback(tap(module, partial(keep, i)))
        whole.read(tokens)
    return found


@torch.no_grad()
def decays(model: Any, tokens: Tensor) -> list[Tensor | None]:
    """For each block the factors a_t of h_t = a_t h_{t-1} + ..., [B, T, ...], of tokens [B, T].

    [B, T, H] of minGRU and minLSTM; [B, T, N, D] of Mamba; [B, T, D] of RWKV-4 and RWKV-5, the same at every
    step; [B, T, heads] of mLSTM. None for a block whose state is no such sum: GRU, LSTM, sLSTM, which read
    their own past, S4 and S4D, whose states turn, and attention and Aaren, which forget nothing.
    """
    whole = _own(model)
    known = {i: _FACTORS[type(block)] for i, block in enumerate(whole.blocks) if type(block) in _FACTORS}
    tapped = {i: (whole.blocks[i].get_submodule(name), tap) for i, (name, tap, _) in known.items()}
    passed = _passed(whole, tapped, tokens)
    return [known[i][2](b, passed[i]) if i in known else None for i, b in enumerate(whole.blocks)]


def survival(factors: Tensor, start: int) -> Tensor:
    """prod_{s = start+1..t} a_s for t = start, start + 1, .., T - 1, [B, T - start, ...], of a [B, T, ...].

    How much of what the state holds after token `start` is left after token t.
    """
    if not 0 <= start < factors.shape[1]:
        raise ValueError(f"start must lie in 0..{factors.shape[1] - 1}, got {start}")
    first = torch.ones_like(factors[:, :1])
    return torch.cat([first, factors[:, start + 1 :]], 1).cumprod(1)


def half_life(factors: Tensor) -> Tensor:
    """log(2) / -mean(log a): steps in which half is forgotten, for each channel, of factors [B, T, ...].

    The mean is over rows and steps; infinite where nothing is forgotten, 0 where all is at some step.
    """
    return math.log(2) / factors.log().mean((0, 1)).abs()


# ----------------------------------------------------------------------------------------------
# The Jacobian. A block's state reaches its later states within the block alone: what comes in is held.

_MEMORY = ("layer", "ssm", "memory", "average", "cell")


def _memory(state: Any) -> tuple[str, Any]:
    """The field of a block's state that is its recurrence's, and its value; "" where it is all."""
    if isinstance(state, KVState):
        raise ValueError("block must be recurrent: the state of attention is no recurrence")
    name = next((name for name in _MEMORY if name in getattr(state, "_fields", ())), "")
    return name, getattr(state, name) if name else state


def _flat(state: Any) -> Tensor:
    """[B, N] real numbers."""
    parts: list[Tensor] = []
    apply(lambda x: parts.append((torch.view_as_real(x) if x.is_complex() else x).flatten(1)), state)
    return torch.cat(parts, 1)


def _shaped(flat: Tensor, like: Any) -> Any:
    """The inverse of `_flat`."""
    begin = 0

    def take(x: Tensor) -> Tensor:
        nonlocal begin
        real = torch.view_as_real(x) if x.is_complex() else x
        size = real[0].numel()
        part, begin = flat[:, begin : begin + size].view(real.shape), begin + size
        return torch.view_as_complex(part) if x.is_complex() else part

    return apply(take, like)


def state_jacobian(model: Any, tokens: Tensor, block: int, start: int, end: int) -> Tensor:
    """d h_end / d h_start, [B, N, N]: of the block's state after token `end` by that after token `start`.

    h: the state of its recurrence without that of its convolution or token shift, all its N real numbers one
    after the other, in the units in which it is kept. By autograd, N backward passes: for small models.
    Raises ValueError unless 0 <= start < end < T.
    """
    if not 0 <= start < end < tokens.shape[1]:
        raise ValueError(f"start < end must lie in 0..{tokens.shape[1] - 1}, got {start} and {end}")
    whole = _own(model)
    if not 0 <= block < len(whole.blocks):
        raise ValueError(f"block must lie in 0..{len(whole.blocks) - 1}, got {block}")
    one: Any = whole.blocks[block]
    with torch.no_grad():
        x = _passed(whole, {block: (one, on_input)}, tokens)[block]
        _, begin = one(x[:, : start + 1])
    name, memory = _memory(begin)
    with torch.enable_grad():
        flat = _flat(memory).detach().requires_grad_()
        inner = _shaped(flat, memory)
        _, after = one(x[:, start + 1 : end + 1], begin._replace(**{name: inner}) if name else inner)
        out = _flat(_memory(after)[1])
        rows = [torch.autograd.grad(y.sum(), flat, retain_graph=True)[0] for y in out.unbind(1)]
    return torch.stack(rows, 1)
