"""RWKV-4: both mixes on the kernels, the step of a block as one call."""

from functools import partial
from typing import Any

from torch import Tensor

from recurra.interop.accelerated.general import plus, stepping, usual
from recurra.interop.accelerated.steps import Recordings, Steps
from recurra.ops.activation import activate
from recurra.ops.linear import state_dtype
from recurra.ops.softmax import softmax, take_step
from recurra.ops.token_mix import token_mix, token_mix_step
from recurra.parts.kept import Kept
from recurra.state import ConvState, SoftmaxState

__all__ = ["attention", "block", "feed_forward"]

# A state is a list of five tensors [B, D, layers]: the last inputs of the channel mix and of the time mix,
# then numerator, denominator and max of the averages.
State = list[Tensor]


def attention(
    module: Any, hidden: Tensor, state: State | None = None, use_cache: bool = False
) -> tuple[Tensor, State | None]:
    """RwkvSelfAttention's."""
    at, mixes = module.layer_id, _mixes(module, "key", "value", "receptance")
    if not usual(hidden, *mixes, module.time_decay, module.time_first):
        y: tuple[Tensor, State | None] = type(module).forward(module, hidden, state, use_cache)
        return y
    shift = None if state is None else ConvState(state[1][:, None, :, at])
    average = None if state is None else SoftmaxState(*(state[i][..., at] for i in (4, 2, 3)))
    (k, v, r), shift = token_mix(hidden, mixes, shift)
    k, v, r = module.key(k), module.value(v), module.receptance(r)
    wkv, average = softmax(k, v, average, decay=module.time_decay.exp(), bonus=module.time_first)
    if state is not None:
        state[1][..., at] = hidden[:, -1]
        for i, x in zip((4, 2, 3), average, strict=True):
            state[i][..., at] = x
    return module.output(activate("sigmoid", r, wkv)), state


def feed_forward(module: Any, hidden: Tensor, state: State | None = None) -> tuple[Tensor, State | None]:
    """RwkvFeedForward's."""
    at, mixes = module.layer_id, _mixes(module, "key", "receptance")
    if not usual(hidden, *mixes):
        y: tuple[Tensor, State | None] = type(module).forward(module, hidden, state)
        return y
    shift = None if state is None else ConvState(state[0][:, None, :, at])
    (k, r), _ = token_mix(hidden, mixes, shift)
    value = module.value(activate("relu_square", module.key(k)))
    if state is not None:
        state[0][..., at] = hidden[:, -1]
    return activate("sigmoid", module.receptance(r), value), state


def _mixes(module: Any, *names: str) -> tuple[Tensor, ...]:
    """[D] of each [1, 1, D]."""
    return tuple(getattr(module, f"time_mix_{name}").flatten() for name in names)


# ----------------------------------------------------------------------------------------------
# One token. At the first step the state's tensors are laid out anew, layers in front, so that those of one
# layer lie side by side; the steps then write to them directly.


def block(
    module: Any,
    recordings: Recordings,
    hidden: Tensor,
    state: State | None = None,
    use_cache: bool = False,
    output_attentions: bool = False,
) -> tuple[Tensor, State | None, Tensor | None]:
    """RwkvBlock's: a step where a state is given with one token, else its own."""
    if isinstance(state, list) and not output_attentions and stepping(hidden):
        steps = _steps(module, recordings, state)
        if steps is not None:
            return steps(hidden[:, 0])[:, None], state, None
    y: tuple[Tensor, State | None, Tensor | None] = type(module).forward(
        module, hidden, state=state, use_cache=use_cache, output_attentions=output_attentions
    )
    return y


def _steps(module: Any, recordings: Recordings, state: State) -> Steps | None:
    for i, x in enumerate(state):
        if x.stride(1) != 1:
            state[i] = x.permute(2, 0, 1).contiguous().permute(1, 2, 0)
    *others, key = state

    def begin() -> Steps:
        # Views of the same memory: nothing that a recording holds may keep its key alive.
        memory = (x.detach()[..., module.attention.layer_id] for x in state)
        return Steps(module, partial(_step, module, Kept()), *memory)

    return recordings.of(key, others, module, begin)


def _rates(module: Any) -> tuple[Tensor, Tensor]:
    """Decay and bonus as `ops.softmax` takes them, in at least fp32."""
    decay, bonus = (p.to(state_dtype(p.dtype)) for p in (module.time_decay, module.time_first))
    return decay.exp(), bonus


def _step(
    module: Any, kept: Kept, x: Tensor, channel: Tensor, time: Tensor, *average: Tensor
) -> tuple[Tensor, ...]:
    """y [B, D] and the layer's five tensors [B, D] from x [B, D] and those before."""
    mix, feed = module.attention, module.feed_forward
    x = x if module.layer_id else module.pre_ln(x)
    mixes = _mixes(mix, "key", "value", "receptance")
    (k, v, r), shift = token_mix_step(module.ln1(x), mixes, ConvState(time[:, None]))
    rates = kept(partial(_rates, mix), mix.time_decay, mix.time_first)
    numerator, denominator, top = average
    wkv, now = take_step(mix.key(k), mix.value(v), SoftmaxState(top, numerator, denominator), *rates)
    x = plus(mix.output, activate("sigmoid", mix.receptance(r), wkv), x)
    (k, r), last = token_mix_step(
        module.ln2(x), _mixes(feed, "key", "receptance"), ConvState(channel[:, None])
    )
    value = feed.value(activate("relu_square", feed.key(k)))
    y = activate("sigmoid", feed.receptance(r), value, x)
    return y, last.x[:, 0], shift.x[:, 0], now.numerator, now.denominator, now.max
