"""Models of recurra for transformers: its `generate`, its pipelines, its Trainer and its Auto classes."""

import os
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import pad
from transformers import AutoConfig, AutoModelForCausalLM, GenerationMixin, PreTrainedConfig, PreTrainedModel
from transformers.modeling_outputs import CausalLMOutputWithPast
from transformers.utils import can_return_tuple

from recurra.blocks.stack import run
from recurra.interop.cache import RecurraCache
from recurra.models import SequenceModel
from recurra.models.cross_entropy import IGNORED
from recurra.ops.masks import widen

__all__ = ["RecurraConfig", "RecurraForCausalLM", "wrap"]


class RecurraConfig(PreTrainedConfig):  # type: ignore[misc] # transformers is not looked into
    """`model` is the `SequenceModel.config` of the model inside; the rest is for transformers."""

    model_type = "recurra"
    model: dict[str, Any] | None = None
    use_cache: bool = True
    tie_word_embeddings: bool = False

    @property
    def vocab_size(self) -> int | None:
        """Tokens of the vocabulary."""
        return (self.model or {}).get("vocabulary")

    @property
    def hidden_size(self) -> int | None:
        """Width of the model."""
        return (self.model or {}).get("width")

    @property
    def num_hidden_layers(self) -> int:
        """Number of blocks."""
        return len((self.model or {}).get("blocks", ()))


class RecurraForCausalLM(PreTrainedModel, GenerationMixin):  # type: ignore[misc]
    """A `SequenceModel`, which is `model`, as a language model of transformers; the state is the cache.

    attention_mask [B, T], or longer by what a cache has seen: a token at 0 is not there for its row, be it in
    front, behind or in between. labels [B, T] are shifted inside, -100 does not count, as everywhere in
    transformers. Raises ValueError that names the argument.
    """

    config_class = RecurraConfig
    supports_gradient_checkpointing = True
    accepts_loss_kwargs = True
    _is_stateful = True

    def __init__(self, config: RecurraConfig, model: SequenceModel | None = None) -> None:
        super().__init__(config)
        if config.model is None or config.model.get("channels"):
            raise ValueError(f"config.model must be that of a model that reads tokens, got {config.model!r}")
        self.model = SequenceModel.from_config(config.model) if model is None else model
        for x in (*self.model.parameters(), *self.model.buffers()):
            x._is_hf_initialized = not x.is_meta  # type: ignore[attr-defined]
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        # Blocks draw their weights when they are built. What comes here was not in a file.
        for name, x in (*self.named_parameters(), *self.named_buffers()):
            if not getattr(x, "_is_hf_initialized", False):
                raise ValueError(f"{name} is missing in the saved weights")

    @classmethod
    def _supports_default_dynamic_cache(cls) -> bool:
        # `generate` is to begin without a cache: the first call makes ours.
        return False

    @can_return_tuple  # type: ignore[untyped-decorator]
    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        past_key_values: RecurraCache | None = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        use_cache: bool | None = None,
        output_hidden_states: bool | None = None,
        logits_to_keep: int | Tensor = 0,
        num_items_in_batch: Tensor | int | None = None,
    ) -> CausalLMOutputWithPast:
        """Logits [B, T, vocabulary] of tokens [B, T] or of vectors [B, T, width] in their place.

        logits_to_keep: only at that many last positions, or at those given; 0: at all. hidden_states: what
        each block reads, and what the head does.
        """
        x = _given(input_ids, inputs_embeds)
        cache, alive = _cache(past_key_values), _alive(attention_mask, x)
        show = self.config.output_hidden_states if output_hidden_states is None else output_hidden_states
        hidden: list[Tensor] = []
        if alive is None and not show and self._steps(x, cache):
            logits = cache.step(self.model, x[:, 0])[:, None]
        else:
            hidden = self._read(x, alive, cache, show)
            logits = self.model.head(_kept(hidden[-1], logits_to_keep))
        kept = self.config.use_cache and not self.training if use_cache is None else use_cache
        return CausalLMOutputWithPast(
            loss=None if labels is None else self._loss(logits, labels, alive, num_items_in_batch),
            logits=logits,
            past_key_values=cache if kept else None,
            hidden_states=tuple(hidden) if show else None,
        )

    def _steps(self, x: Tensor, cache: RecurraCache) -> bool:
        """True where one more token is read and no gradient wanted, as a recorded step does it."""
        plain = not self.training and not torch.is_grad_enabled()
        return plain and cache.begun and x.shape[1] == 1 and not x.is_floating_point()

    def _read(self, x: Tensor, alive: Tensor | None, cache: RecurraCache, show: bool) -> list[Tensor]:
        """What the head reads, [B, T, width]; with `show` what each block does stands before it."""
        if alive is None:
            return self._run(x, None, cache, show)
        # The rest comes behind `lengths`, where states are held.
        order = _order(alive)
        x = _take(x.masked_fill(~widen(alive, x), 0), order)
        return [_take(y, order.argsort(1)) for y in self._run(x, alive.sum(1), cache, show)]

    def _run(self, x: Tensor, lengths: Tensor | None, cache: RecurraCache, show: bool) -> list[Tensor]:
        x = x if x.is_floating_point() else self.model.embed(x)
        hidden, state, ends = [x], cache.state, ()
        for i, block in enumerate(self.model.blocks):
            begin = None if state is None else state[i : i + 1]
            x, end = run([block], x, begin, None, lengths, self.model.checkpointing)
            hidden, ends = [*hidden, x] if show else [x], (*ends, *end)
        cache.put(ends, x.shape[1])
        return hidden

    def _loss(
        self, logits: Tensor, labels: Tensor, alive: Tensor | None, count: Tensor | int | None
    ) -> Tensor:
        following = None if alive is None else _following(labels, alive)
        given = {"vocab_size": self.model.head.size, "num_items_in_batch": count, "shift_labels": following}
        loss: Tensor = self.loss_function(logits, labels, **given)
        return loss

    @property
    def gradient_checkpointing(self) -> bool:
        """`checkpointing` of the model inside; transformers sets it by this name."""
        return self.model.checkpointing

    @gradient_checkpointing.setter
    def gradient_checkpointing(self, value: bool) -> None:
        self.model.checkpointing = value

    def get_input_embeddings(self) -> nn.Module:
        """The table of tokens, `weight` [V, width]; that of a tied head too."""
        return self.model.embed

    def set_input_embeddings(self, value: nn.Module) -> None:
        """Take the weight [V, width] of another table, with as many rows."""
        old, new = self.model.embed.weight, getattr(value, "weight", None)
        if not isinstance(new, nn.Parameter) or new.shape != old.shape:
            got = "none" if new is None else list(new.shape)
            raise ValueError(f"value must have a weight {list(old.shape)}, got {got}")
        self.model.embed.weight = new

    def resize_token_embeddings(
        self,
        new_num_tokens: int | None = None,
        pad_to_multiple_of: int | None = None,
        mean_resizing: bool = True,
    ) -> nn.Module:
        """The table of tokens, which has so many rows now, as has the head.

        New rows are the mean of the old ones; without `mean_resizing` they are drawn, as wide as those.
        """
        size = self.model.head.size if new_num_tokens is None else new_num_tokens
        size += -size % (pad_to_multiple_of or 1)
        for part in (self.model.embed, self.model.head):
            if part.weight is not None:
                made = _resized(part.weight.detach(), size, mean_resizing)
                part.weight = nn.Parameter(made, part.weight.requires_grad)
        self.config.model = self.model.config
        return self.model.embed


def wrap(model: SequenceModel | str | os.PathLike[str]) -> RecurraForCausalLM:
    """The model, or the one that `SequenceModel.save_pretrained` left in a folder, for transformers.

    Nothing is copied: to train one is to train the other.
    """
    inner = model if isinstance(model, SequenceModel) else SequenceModel.from_pretrained(model)
    config = RecurraConfig(model=inner.config, tie_word_embeddings=inner.head.tied)
    return RecurraForCausalLM(config, inner).train(inner.training)  # type: ignore[no-any-return]


def _given(tokens: Tensor | None, vectors: Tensor | None) -> Tensor:
    if tokens is not None and vectors is None:
        if tokens.ndim != 2:
            raise ValueError(f"input_ids must be [batch, time], got {list(tokens.shape)}")
        return tokens
    if vectors is not None and tokens is None:
        return vectors
    raise ValueError("one of input_ids and inputs_embeds must be given")


def _cache(given: RecurraCache | None) -> RecurraCache:
    if not isinstance(given, RecurraCache | None):
        raise ValueError(f"past_key_values must be a RecurraCache, got {type(given).__name__}")
    return RecurraCache() if given is None else given


def _alive(mask: Tensor | None, x: Tensor) -> Tensor | None:
    """[B, T] bool: the token is there; None where all of them are."""
    if mask is None:
        return None
    batch, time = x.shape[:2]
    if mask.ndim != 2 or len(mask) != batch or mask.shape[1] < time:
        want = f"[batch, time] = [{batch}, {time}], or longer by what was read before"
        raise ValueError(f"attention_mask must be {want}, got {list(mask.shape)}")
    alive = mask[:, mask.shape[1] - time :] != 0
    return None if alive.all() else alive


def _order(alive: Tensor) -> Tensor:
    """Where the tokens of a row are, [B, T]: first those that are there."""
    return (~alive).byte().sort(dim=1, stable=True).indices


def _following(labels: Tensor, alive: Tensor) -> Tensor:
    """For each token the label of the next one that is there, [B, T]; -100 where none is."""
    order = _order(alive)
    packed = _take(labels.masked_fill(~alive, IGNORED), order)
    return _take(pad(packed[:, 1:], (0, 1), value=IGNORED), order.argsort(1))


def _take(x: Tensor, index: Tensor) -> Tensor:
    """x [B, T, ...] at index [B, T]."""
    return x.gather(1, widen(index, x).expand_as(x))


def _kept(x: Tensor, positions: int | Tensor) -> Tensor:
    return x[:, -positions:] if isinstance(positions, int) else x[:, positions]


def _resized(old: Tensor, size: int, mean: bool) -> Tensor:
    """The first rows of a matrix, and where it has too few such as its own."""
    more = old.new_empty(max(0, size - len(old)), old.shape[1])
    more = more.copy_(old.mean(0)) if mean else more.normal_(0, float(old.std()))
    return torch.cat([old[:size], more])


AutoConfig.register(RecurraConfig.model_type, RecurraConfig)
AutoModelForCausalLM.register(RecurraConfig, RecurraForCausalLM)
