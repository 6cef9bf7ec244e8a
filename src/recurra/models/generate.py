"""Writing with a language model: its prompts in parallel, then one token after the other from a state."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor

from recurra.models.stepper import renewed, stepper
from recurra.state import apply

__all__ = ["Generation", "Prompts", "Sampler", "evaluating"]

Prompts = Tensor | Sequence[int] | Sequence[Sequence[int]]
# Prompts are read in pieces of this many tokens, so that their memory has a bound too.
_WINDOW = 4096


class Sampler(NamedTuple):
    """How a token is drawn from logits [B, V]; each choice acts on what the one before has left.

    repetition_penalty: logits of tokens already there are divided by it, multiplied where negative
    (arXiv 1909.05858, section 4.1); temperature divides all, 0 takes the likeliest; top_k keeps the k
    likeliest and what equals the last of them; top_p the fewest that together have probability p
    (arXiv 1904.09751, section 3.1).
    """

    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    repetition_penalty: float = 1.0

    def check(self) -> None:
        """Raise ValueError that names the argument."""
        for name in ("temperature", "top_k"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"{name} must not be negative, got {getattr(self, name)}")
        if not 0 < self.top_p <= 1:
            raise ValueError(f"top_p must lie in (0, 1], got {self.top_p}")
        if not self.repetition_penalty > 0:
            raise ValueError(f"repetition_penalty must be greater than zero, got {self.repetition_penalty}")

    def draw(self, logits: Tensor, seen: Tensor | None, generator: torch.Generator | None) -> Tensor:
        """Tokens [B]; seen [B, V] bool, the tokens already there, needed for a repetition_penalty."""
        if seen is not None:
            rate = self.repetition_penalty
            logits = logits.where(~seen, torch.where(logits > 0, logits / rate, logits * rate))
        if self.temperature == 0:
            return logits.argmax(-1)
        p = self._narrowed(logits.float() / self.temperature).softmax(-1)
        # The first of independent clocks of rates p to ring; torch.multinomial takes half as long again.
        return (p / torch.empty_like(p).exponential_(generator=generator)).argmax(-1)

    def _narrowed(self, logits: Tensor) -> Tensor:
        if 0 < self.top_k < logits.shape[-1]:
            least = logits.topk(self.top_k).values[:, -1:]
            logits = logits.masked_fill(logits < least, float("-inf"))
        if self.top_p < 1:
            order = logits.argsort(dim=-1, descending=True, stable=True)
            p = logits.gather(-1, order).softmax(-1)
            spare = p.cumsum(-1) - p >= self.top_p
            logits = logits.masked_fill(spare.scatter(-1, order, spare), float("-inf"))
        return logits


class Generation(Iterator[Tensor]):
    """New tokens [B], step by step: `SequenceModel.generate` makes it.

    Nothing grows with the number of steps. The model is in eval mode while it runs.
    """

    def __init__(
        self,
        model: Any,
        prompts: Prompts,
        steps: int,
        sampler: Sampler,
        seed: int | None,
        state: Any,
    ) -> None:
        if steps < 0:
            raise ValueError(f"steps must not be negative, got {steps}")
        sampler.check()
        self._model, self._sampler, self._left = model, sampler, steps
        device = model.embed.weight.device
        self._generator = None if seed is None else torch.Generator(device).manual_seed(seed)
        tokens, lengths = _padded(prompts, device)
        self._seen = (
            _present(tokens, lengths, len(model.embed.weight)) if sampler.repetition_penalty != 1 else None
        )
        # The token that was drawn last and not yet read.
        self._unread: Tensor | None = None
        with torch.no_grad(), evaluating(model):
            self._logits, after = _read(model, tokens, lengths, state)
            self._step = stepper(model, after)

    @property
    def state(self) -> Any:
        """The model's state after all prompts and tokens so far, the last token included."""
        with torch.no_grad(), evaluating(self._model):
            self._advance()
            return apply(torch.clone, self._step.state)

    def _advance(self) -> None:
        if self._unread is not None:
            self._step = renewed(self._step)
            self._logits = self._step(self._unread)
            self._unread = None

    def __next__(self) -> Tensor:
        if not self._left:
            raise StopIteration
        self._left -= 1
        with torch.no_grad(), evaluating(self._model):
            self._advance()
            token = self._sampler.draw(self._logits, self._seen, self._generator)
        if self._seen is not None:
            self._seen = self._seen.scatter(1, token[:, None], True)
        self._unread = token
        return token


@contextmanager
def evaluating(model: Any) -> Iterator[None]:
    """The model is in eval mode meanwhile."""
    training = model.training
    if training:
        model.eval()
    try:
        yield
    finally:
        if training:
            model.train()


def _padded(prompts: Prompts, device: torch.device) -> tuple[Tensor, Tensor]:
    """Tokens [B, T], zeros behind the shorter ones, and lengths [B]."""
    if isinstance(prompts, Tensor):
        rows = list(prompts if prompts.ndim > 1 else prompts[None])
    else:
        nested: Any = prompts if len(prompts) and not isinstance(prompts[0], int) else [prompts]
        rows = [torch.as_tensor(row, dtype=torch.int64) for row in nested]
    if not rows:
        raise ValueError("prompts must hold at least one row")
    for i, row in enumerate(rows):
        if row.ndim != 1 or not len(row):
            raise ValueError(f"prompts must hold at least one token each, got {list(row.shape)} in row {i}")
    tokens = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)
    return tokens.to(device), torch.tensor([len(row) for row in rows], device=device)


def _present(tokens: Tensor, lengths: Tensor, vocabulary: int) -> Tensor:
    """[B, V] bool: the token occurs in that prompt."""
    alive = torch.arange(tokens.shape[1], device=tokens.device) < lengths[:, None]
    count = torch.zeros(len(tokens), vocabulary, device=tokens.device, dtype=torch.int64)
    return count.scatter_add_(1, tokens, alive.long()) > 0


def _read(model: Any, tokens: Tensor, lengths: Tensor, state: Any) -> tuple[Tensor, Any]:
    """Logits [B, V] after the last token of each prompt, and the state there."""
    last: Tensor | None = None
    for begin in range(0, tokens.shape[1], _WINDOW):
        window = tokens[:, begin : begin + _WINDOW]
        left = (lengths - begin).clamp(0, window.shape[1])
        x, state = model.hidden(window, state, lengths=left)
        ends = x.gather(1, (left - 1).clamp(min=0)[:, None, None].expand(-1, 1, x.shape[2]))[:, 0]
        last = ends if last is None else torch.where((left > 0)[:, None], ends, last)
    return model.head(last), state
