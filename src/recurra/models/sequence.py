"""A sequence model: embedding, blocks, head. A language model is a list of blocks and nothing else."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from recurra.blocks.common import later
from recurra.blocks.stack import State, make, run, step
from recurra.blocks.table import describe, parse, told
from recurra.models.cross_entropy import IGNORED
from recurra.models.generate import Generation, Prompts, Sampler
from recurra.models.head import LanguageHead
from recurra.models.saved import Saved, built
from recurra.parts.embedding import Embedding, LinearEmbedding
from recurra.parts.norm import NORMS

__all__ = ["SequenceModel", "language_model"]


class SequenceModel(Saved):
    """logits = head(block_n(... block_1(embed(tokens)))), tokens [B, T], logits [B, T, vocabulary].

    With a `LinearEmbedding` real numbers [B, T, channels] are read in the place of tokens.
    state: one state a block, None: a fresh start; reset [B, T] and lengths [B] as in `ops.masks`.
    With `checkpointing` set, a block keeps only its input while training, and is computed twice.
    Raises ValueError that names the argument.
    """

    # A ModuleList of blocks: torch's type forgets of what.
    blocks: Any

    def __init__(
        self, embed: Embedding | LinearEmbedding, blocks: Sequence[nn.Module], head: LanguageHead
    ) -> None:
        super().__init__()
        self.embed, self.blocks, self.head = embed, nn.ModuleList(blocks), head
        self.checkpointing = False

    @property
    def channels(self) -> int:
        """Real numbers that are read at a step; 0: a token is."""
        return self.embed.in_features if isinstance(self.embed, LinearEmbedding) else 0

    def hidden(
        self,
        tokens: Tensor,
        state: State | None = None,
        reset: Tensor | None = None,
        lengths: Tensor | None = None,
    ) -> tuple[Tensor, State]:
        """What the head reads, [B, T, width], and the last state."""
        self._check("tokens", tokens, "batch, time")
        return run(self.blocks, self.embed(tokens), state, reset, lengths, self.checkpointing)

    def forward(
        self,
        tokens: Tensor,
        state: State | None = None,
        reset: Tensor | None = None,
        lengths: Tensor | None = None,
    ) -> tuple[Tensor, State]:
        """Logits [B, T, vocabulary], zero beyond lengths, and the last state."""
        x, state = self.hidden(tokens, state, reset, lengths)
        logits = self.head(x)
        if lengths is not None:
            logits = logits.masked_fill(~_alive(tokens, lengths)[..., None], 0)
        return logits, state

    def loss(
        self,
        tokens: Tensor,
        targets: Tensor,
        state: State | None = None,
        reset: Tensor | None = None,
        lengths: Tensor | None = None,
        smoothing: float = 0.0,
    ) -> tuple[Tensor, State]:
        """Mean nats of targets [B, T], without those of -100 and beyond lengths, and the last state.

        smoothing: as in `linear_cross_entropy`.
        Mean squared error where they are real numbers, without those that are NaN.
        """
        self._check("tokens", tokens, "batch, time")
        if targets.shape != tokens.shape[:2]:
            want = list(tokens.shape[:2])
            raise ValueError(f"targets must be like tokens, {want}, got {list(targets.shape)}")
        x, state = self.hidden(tokens, state, reset, lengths)
        if lengths is not None:
            nothing = math.nan if targets.is_floating_point() else IGNORED
            targets = targets.masked_fill(~_alive(tokens, lengths), nothing)
        return self.head.loss(x, targets, smoothing), state

    def step(self, token: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        """One step: logits [B, vocabulary] and the state, from token [B]."""
        self._check("token", token, "batch")
        return self.decode(self.embed(token), state)

    def _check(self, name: str, x: Tensor, axes: str) -> None:
        """Raise ValueError unless x has these axes, and behind them the channels of real numbers."""
        if self.channels:
            axes = f"{axes}, {self.channels}"
        if x.ndim != axes.count(",") + 1 or (self.channels and x.shape[-1] != self.channels):
            raise ValueError(f"{name} must be [{axes}], got {list(x.shape)}")

    def decode(self, x_t: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        """`step` from what the embedding made of a token, x_t [B, width]."""
        y, state = step(self.blocks, x_t, state)
        return self.head(y), state

    def generate(
        self,
        prompts: Prompts,
        steps: int,
        *,
        temperature: float = 1.0,
        top_k: int = 0,
        top_p: float = 1.0,
        repetition_penalty: float = 1.0,
        seed: int | None = None,
        state: State | None = None,
    ) -> Generation:
        """An iterator over `steps` new tokens [B] a row, in constant memory; its `state` goes on from there.

        prompts: tokens [B, T], or a list of them a row, of any lengths above zero; read in parallel.
        temperature 0: the likeliest token; top_k 0, top_p 1, repetition_penalty 1: off (`Sampler`).
        seed: draws of its own, None: those of torch. state: where the prompts go on, None: fresh.
        """
        sampler = Sampler(temperature, top_k, top_p, repetition_penalty)
        return Generation(self, prompts, steps, sampler, seed, state)

    @property
    def config(self) -> dict[str, Any]:
        """All that `from_config` needs to build this model anew, as JSON."""
        head, blocks = self.head, [describe(block) for block in self.blocks]
        sizes = head.size, head.width, head.norm_name, head.tied
        return told(_Config(*sizes, blocks, self.channels, head.eps, head.cap))

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> "SequenceModel":
        """The untrained model of a `config`. Raises ValueError that names a key: unknown, missing, wrong."""
        known = parse(_Config, config, {})
        return _assemble(known, built("blocks", known.blocks, known.width))


def _alive(tokens: Tensor, lengths: Tensor) -> Tensor:
    return torch.arange(tokens.shape[1], device=tokens.device) < lengths.to(tokens.device)[:, None]


@dataclass(frozen=True)
class _Config:
    """The keys of a model's config; `blocks` holds those of the blocks, eps and cap are the head's."""

    vocabulary: int
    width: int
    norm: str
    tied: bool
    blocks: list[Any]
    channels: int = later(0)
    eps: float = later(0.0)
    cap: float = later(0.0)


def _assemble(known: _Config, blocks: Sequence[nn.Module]) -> SequenceModel:
    """The model of these keys, and of the blocks that were made of the last of them."""
    vocabulary, channels, width, tied = known.vocabulary, known.channels, known.width, known.tied
    if vocabulary < 1 or width < 1 or channels < 0:
        raise ValueError(
            f"vocabulary and width must be at least 1, channels 0, got {vocabulary}, {width} and {channels}"
        )
    if known.norm not in NORMS:
        raise ValueError(f"norm must be one of {', '.join(NORMS)}, got {known.norm!r}")
    if not 0 <= min(known.eps, known.cap) <= max(known.eps, known.cap) < math.inf:
        raise ValueError(f"eps and cap must not be negative, got {known.eps} and {known.cap}")
    if channels:
        if tied:
            raise ValueError("tied: real numbers have no table of tokens that the head could use")
        embed: Any = LinearEmbedding(channels, width)
    else:
        # What a tied head reads has to be small: it multiplies `width` numbers of size one.
        embed = Embedding(vocabulary, width, 1 / math.sqrt(width) if tied else 1.0)
    head = LanguageHead(width, vocabulary, known.norm, embed if tied else None, known.eps, known.cap)
    return SequenceModel(embed, blocks, head)


def language_model(
    blocks: str | Sequence[str] = "mingru",
    vocabulary: int = 256,
    width: int = 384,
    depth: int | None = None,
    *,
    options: Mapping[str, Any] | None = None,
    pattern: str | None = None,
    tied: bool = False,
    channels: int = 0,
) -> SequenceModel:
    """An untrained language model of `depth` blocks, by their names in `recurra.blocks.BLOCKS`.

    blocks: one name, or a list for a hybrid, taken again and again up to `depth` (None: 6, or once
    through the list). pattern: how many of each, 7:1; of `xlstm`, mLSTM and sLSTM (`blocks.stack.turn`).
    options: fields of the blocks' configs, for each block that has them; the head's norm and its eps are
    those of the last block. tied: the head uses the embedding's weights. channels: so many real numbers are
    read at a step, not a token. Raises ValueError that names the argument.
    """
    made: list[Any] = make(blocks, width, depth, options, pattern)
    last = made[-1].config
    eps = getattr(last, "eps", 0.0)
    return _assemble(_Config(vocabulary, width, last.norm, tied, [], channels, eps), made)
