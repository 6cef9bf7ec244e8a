"""From a source to a target: what all encoder-decoders have in common."""

from abc import abstractmethod
from typing import Any, NamedTuple

from torch import Tensor

from recurra.blocks.stack import State
from recurra.models.saved import Saved

__all__ = ["DecoderState", "Pair", "SequenceToSequence"]


class Pair(NamedTuple):
    """A source [B, S], of whose tokens lengths [B] count, and the target [B, T] as the decoder reads it."""

    source: Tensor
    lengths: Tensor
    target: Tensor


class DecoderState(NamedTuple):
    """What a decoder goes on from: its layers' states, and what its attentions know of the source.

    remembered: [R, ...] for each, none without attention; lengths [R]. Rows of blocks are R, or of a search
    R K: the K beams of a source one behind the other, for all of which it is remembered once.
    """

    blocks: State
    remembered: tuple[Tensor, ...]
    lengths: Tensor


class SequenceToSequence(Saved):
    """logits = head(decoder(embed(target), encoder(embed(source)))), [B, T, vocabulary].

    A model of this kind has `embed` for the target and `source` for the source, None where that is the same
    table. Raises ValueError that names the argument.
    """

    embed: Any
    source: Any

    @abstractmethod
    def encoded(self, x: Tensor, lengths: Tensor) -> DecoderState:
        """`encode` of what the embedding made of a source, x [B, S, width]."""

    @abstractmethod
    def hidden(self, target: Tensor, state: DecoderState) -> tuple[Tensor, DecoderState]:
        """What the head reads, [B, T, width], from target [B, T]; and the state behind it."""

    @abstractmethod
    def step(self, token: Tensor, state: DecoderState) -> tuple[Tensor, DecoderState]:
        """One step: logits [B, vocabulary] and the state, from token [B]."""

    @abstractmethod
    def looks(self, pair: Pair) -> list[Tensor]:
        """Where the decoder looks, [B, T, S] for each of its attentions, the mean over heads."""

    def encode(self, source: Tensor, lengths: Tensor) -> DecoderState:
        """Where the decoder starts, from source [B, S] with lengths [B] of at least 1."""
        if source.ndim != 2 or not source.shape[1]:
            raise ValueError(f"source must be [batch, at least 1], got {list(source.shape)}")
        if tuple(lengths.shape) != source.shape[:1]:
            raise ValueError(f"lengths must be [{len(source)}], got {list(lengths.shape)}")
        return self.encoded(self.represented(source), lengths)

    def represented(self, source: Tensor) -> Tensor:
        """What the encoder reads, [B, S, width], of source [B, S]."""
        x: Tensor = (self.source or self.embed)(source)
        return x

    def forward(self, pair: Pair, state: DecoderState | None = None) -> tuple[Tensor, DecoderState]:
        """Logits and the last state; state: of a source that was read before."""
        x, state = self.hidden(pair.target, state or self.encode(pair.source, pair.lengths))
        return self.head(x), state

    def loss(
        self, pair: Pair, targets: Tensor, state: None = None, *, smoothing: float = 0.0
    ) -> tuple[Tensor, None]:
        """Mean nats of targets [B, T], without those of -100; no state is carried from pair to pair."""
        if targets.shape != pair.target.shape:
            want, got = list(pair.target.shape), list(targets.shape)
            raise ValueError(f"targets must be like the target, {want}, got {got}")
        x, _ = self.hidden(pair.target, self.encode(pair.source, pair.lengths))
        return self.head.loss(x, targets, smoothing), state
