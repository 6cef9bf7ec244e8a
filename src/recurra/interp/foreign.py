"""Models of transformers under study: the one file that knows how they are built and what their caches hold.

They are known by the names of their classes: transformers is not imported. Also where they are accelerated.
"""

import sys
from collections.abc import Callable, Iterator
from operator import attrgetter
from typing import Any, NamedTuple

import torch
from torch import Tensor

from recurra.interp.subject import Edit, Own, Place, Remove, State, Subject, on_input, on_output
from recurra.models.cross_entropy import capped
from recurra.state import KVState, OuterState, SoftmaxState, concatenate, select

__all__ = ["FAMILIES", "Family", "Foreign", "foreign"]


class Family(NamedTuple):
    """Where the parts of a kind of model are, and what its cache is.

    blocks, norm and head of the model, layer of a block (what reads its recurrence or attention); cache: its
    name as an argument and in the output; parts: the tensors of a block in a cache, which are not copies;
    filled: a cache for a model, its rows and a state, None: an empty one; named: those tensors in the kinds
    of `recurra.state`. Of what reads wrongly behind a cache: by_token: several tokens, by_row: several rows
    of one token.
    """

    blocks: str
    norm: str
    head: str
    layer: str
    cache: str
    parts: Callable[[Any, int], tuple[Tensor, ...]]
    filled: Callable[[Any, int, State | None], Any]
    named: Callable[..., Any]
    by_token: bool = False
    by_row: bool = False


def _module(model: Any) -> Any:
    """The module in which the model's class is defined."""
    return sys.modules[_known(model)[0].__module__]


def _dynamic_cache(model: Any) -> Any:
    return _module(model).DynamicCache(config=model.config)


def _mamba_parts(cache: Any, block: int) -> tuple[Tensor, ...]:
    """The last inputs of the convolution [B, D, K], and h [B, D, N]."""
    layer = cache.layers[block]
    return layer.conv_states[0], layer.recurrent_states[0]


def _mamba_cache(model: Any, rows: int, state: State | None) -> Any:
    cache = _dynamic_cache(model)
    for layer, (conv, h) in zip(cache.layers, state or (), strict=bool(state)):
        layer.update_conv_state(conv, conv_kernel_size=conv.shape[-1])
        layer.update_recurrent_state(h)
    return cache


def _rwkv_parts(cache: Any, block: int) -> tuple[Tensor, ...]:
    """Last inputs of channel and time mix, then numerator, denominator and max of the averages, [B, D]."""
    return tuple(part[..., block] for part in cache)


def _rwkv_cache(model: Any, rows: int, state: State | None) -> Any:
    return None if state is None else [torch.stack(parts, -1) for parts in zip(*state, strict=True)]


def _xlstm_parts(cache: Any, block: int) -> tuple[Tensor, ...]:
    """C [B, H, K, V], n [B, H, K] and m [B, H, 1]."""
    return tuple(cache.rnn_state[block])


def _xlstm_cache(model: Any, rows: int, state: State | None) -> Any:
    like = model.lm_head.weight
    cache = _module(model).xLSTMCache(model.config, rows, dtype=like.dtype, device=like.device)
    # Its own tensors are of rounded sizes, which are not always those of the blocks.
    given = state or [_xlstm_zeros(block.mlstm_layer, like, rows) for block in model.backbone.blocks]
    cache.rnn_state = {i: tuple(x.clone() for x in parts) for i, parts in enumerate(given)}
    return cache


def _xlstm_zeros(layer: Any, like: Tensor, rows: int) -> tuple[Tensor, ...]:
    heads = layer.config.num_heads
    keys, values = layer.qk_dim // heads, layer.v_dim // heads
    shapes = (rows, heads, keys, values), (rows, heads, keys), (rows, heads, 1)
    return tuple(like.new_zeros(shape) for shape in shapes)


def _llama_parts(cache: Any, block: int) -> tuple[Tensor, ...]:
    """Keys and values [B, H, S, C], and how many steps there were [B], of which a window keeps the last."""
    layer = cache.layers[block]
    return layer.keys, layer.values, torch.full(layer.keys.shape[:1], layer.get_seq_length())


def _llama_cache(model: Any, rows: int, state: State | None) -> Any:
    cache = _dynamic_cache(model)
    for i, (keys, values, steps) in enumerate(state or ()):
        cache.update(keys, values, i)
        if hasattr(cache.layers[i], "cumulative_length"):
            cache.layers[i].cumulative_length = int(steps[0])
    return cache


_LLAMA = Family(
    *("model.layers", "model.norm", "lm_head", "self_attn.o_proj", "past_key_values"),
    _llama_parts,
    _llama_cache,
    lambda keys, values, steps: KVState(keys, values, keys[:, :, :0], values[:, :, :0], steps),
)
FAMILIES: dict[str, Family] = {
    "transformers.models.mamba.modeling_mamba.MambaForCausalLM": Family(
        *("backbone.layers", "backbone.norm_f", "lm_head", "mixer.out_proj", "cache_params"),
        _mamba_parts,
        _mamba_cache,
        lambda conv, h: (conv, h),
        # transformers 5.23 scans from zeros where several tokens come behind a cache.
        by_token=True,
    ),
    "transformers.models.rwkv.modeling_rwkv.RwkvForCausalLM": Family(
        *("rwkv.blocks", "rwkv.ln_out", "head", "attention.output", "state"),
        _rwkv_parts,
        _rwkv_cache,
        lambda channel, time, up, down, top: (channel, time, SoftmaxState(top, up, down)),
        # There each row meets the last input of every other.
        by_row=True,
    ),
    "transformers.models.xlstm.modeling_xlstm.xLSTMForCausalLM": Family(
        *("backbone.blocks", "backbone.out_norm", "lm_head", "mlstm_layer.out_proj", "cache_params"),
        _xlstm_parts,
        _xlstm_cache,
        lambda c, n, m: OuterState(c, n, m[..., 0]),
    ),
    "transformers.models.llama.modeling_llama.LlamaForCausalLM": _LLAMA,
    "transformers.models.mistral.modeling_mistral.MistralForCausalLM": _LLAMA,
    "transformers.models.qwen2.modeling_qwen2.Qwen2ForCausalLM": _LLAMA,
}
_WRAPPED = "recurra.interop.causal_lm.RecurraForCausalLM"


def _names(model: Any) -> Iterator[tuple[type, str]]:
    return ((kind, f"{kind.__module__}.{kind.__qualname__}") for kind in type(model).__mro__)


def _known(model: Any) -> tuple[type, Family]:
    """The class that a model is known by. Raises TypeError."""
    for kind, name in _names(model):
        if name in FAMILIES:
            return kind, FAMILIES[name]
    known = ", ".join(name.rsplit(".", 1)[1] for name in FAMILIES)
    raise TypeError(f"model must be a SequenceModel or of transformers' {known}, got {type(model).__name__}")


def foreign(model: Any) -> Subject:
    """A model of transformers as a subject. Raises TypeError that names those that are known."""
    if any(name == _WRAPPED for _, name in _names(model)):
        return Own(model.model)
    return Foreign(model, _known(model)[1])


class Foreign(Subject):
    """A model of a `Family`; the state of a block is the tuple of its tensors in the cache.

    A place of kind `state` is where a call of the model ends, and only where it has a cache.
    """

    def __init__(self, model: Any, family: Family) -> None:
        self._model, self._family = model, family
        self.blocks = attrgetter(family.blocks)(model)

    def head(self, x: Tensor) -> Tensor:
        norm, head = (attrgetter(name)(self._model) for name in (self._family.norm, self._family.head))
        return capped(head(norm(x)), getattr(self._model.config, "output_logit_soft_cap", 0.0) or 0.0)

    @property
    def unembedding(self) -> Tensor:
        weight: Tensor = attrgetter(self._family.head)(self._model).weight
        return weight

    def read(self, tokens: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        rows, time = tokens.shape
        if state and self._family.by_token and time > 1:
            logits = []
            for token in tokens.split(1, 1):
                y, state = self.read(token, state)
                logits.append(y)
            return torch.cat(logits, 1), state
        if state and self._family.by_row and time == 1 and rows > 1:
            ys, ends = zip(*(self.read(tokens[[i]], select(state, [i])) for i in range(rows)), strict=True)
            return torch.cat(ys), concatenate(ends)
        name = self._family.cache
        cache = {name: self._family.filled(self._model, rows, state)}
        out = self._model(input_ids=tokens, use_cache=True, **cache)
        return out.logits, self._state(out[name])

    def _state(self, cache: Any) -> State:
        blocks = range(len(self.blocks))
        return tuple(tuple(x.clone() for x in self._family.parts(cache, i)) for i in blocks)

    def named(self, state: Any) -> Any:
        return self._family.named(*state)

    def tap(self, place: Place, edit: Edit) -> Remove:
        block = self.block(place)
        if place.kind == "state":
            return on_output(self._model, lambda out: self._edited(out, place.block, edit))
        if place.kind == "layer":
            return on_input(attrgetter(self._family.layer)(block), edit)
        return on_output(block, lambda out: self._behind(out, place.block, edit))

    def _behind(self, out: Any, block: int, edit: Edit) -> Any:
        """What a block returns, x or (x, ...), with another x."""
        x, rest = (out[0], out[1:]) if isinstance(out, tuple) else (out, None)
        scale = self._scale(block)
        x = edit(x) if scale == 1 else edit(x * scale) / scale
        return x if rest is None else (x, *rest)

    def _scale(self, block: int) -> int:
        """RWKV in eval mode halves the stream behind every `rescale_every` blocks."""
        every = getattr(self._model.config, "rescale_every", 0)
        rescaled = every and attrgetter(self._family.blocks.split(".")[0])(self._model).layers_are_rescaled
        return 2 ** (block // every) if rescaled else 1

    def _edited(self, out: Any, block: int, edit: Edit) -> Any:
        """The same output; the block's tensors in its cache are written to."""
        cache = out.get(self._family.cache)
        if cache is None:
            raise ValueError(f"use_cache must be True for the state of block {block}: there is no cache")
        parts = self._family.parts(cache, block)
        with torch.no_grad():
            for part, new in zip(parts, edit(tuple(x.clone() for x in parts)), strict=True):
                part.copy_(new)
        return out
