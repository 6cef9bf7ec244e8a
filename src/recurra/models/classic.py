"""The classic encoder-decoder: torch.nn.LSTM on both sides, with attention between them."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from recurra.blocks.common import later
from recurra.blocks.stack import State
from recurra.blocks.table import parse, told
from recurra.models.head import LanguageHead
from recurra.models.pairs import DecoderState, Pair, SequenceToSequence
from recurra.parts.embedding import Embedding
from recurra.parts.linear import Linear
from recurra.state import LSTMState

__all__ = ["CLASSIC", "ClassicEncoderDecoder", "classic"]

# Its name where models are chosen by names.
CLASSIC = "classic"


@dataclass(frozen=True)
class _Config:
    """The keys of a model's config. Raises ValueError that names one."""

    model: str
    vocabulary: int
    width: int
    depth: int
    dropout: float
    tied: bool
    scale: float = later(1.0)

    def __post_init__(self) -> None:
        if self.model != CLASSIC:
            raise ValueError(f"model must be {CLASSIC}, got {self.model!r}")
        if self.vocabulary < 1 or self.depth < 1:
            raise ValueError(f"vocabulary and depth must be at least 1, got {self.vocabulary}, {self.depth}")
        if self.width < 2 or self.width % 2:
            raise ValueError(f"width must be even, each direction reads half of it, got {self.width}")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout must lie in [0, 1), got {self.dropout}")


class ClassicEncoderDecoder(SequenceToSequence):
    """logits_t = W_s tanh(W_c [c_t; h_t]), c_t = sum_s p_ts m_s, p_t = softmax over s of h_t' W_a m_s.

    arXiv 1508.04025, equations 5 to 7 with the general score of section 3.1: m is what an LSTM made of the
    source, h of the target so far. Departs from the paper in the encoder, which reads in both directions
    (arXiv 1409.0473), each with half of the width; in its input feeding (section 3.3), which is left out, so
    that the decoder reads a target in one call; and in embeddings, which are read times sqrt(width) (arXiv
    1706.03762, section 3.4). Dropout on embeddings, between layers, before W_s.
    """

    def __init__(self, config: _Config) -> None:
        super().__init__()
        self.shape, size, width = config, config.vocabulary, config.width
        between = config.dropout if config.depth > 1 else 0.0
        given: dict[str, Any] = {"num_layers": config.depth, "batch_first": True, "dropout": between}
        # As small as what a tied head reads has to be.
        self.embed = Embedding(size, width, width**-0.5, config.scale)
        self.source = None if config.tied else Embedding(size, width, width**-0.5, config.scale)
        self.encoder = nn.LSTM(width, width // 2, bidirectional=True, **given)
        self.decoder = nn.LSTM(width, width, **given)
        self.align, self.mix = Linear(width, width, bias=False), Linear(2 * width, width, bias=False)
        self.dropout = nn.Dropout(config.dropout)
        self.head = LanguageHead(width, size, "", self.embed if config.tied else None)

    @property
    def config(self) -> dict[str, Any]:
        """All that `from_config` needs to build this model anew, as JSON."""
        return told(self.shape)

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> "ClassicEncoderDecoder":
        """The untrained model of a `config`. Raises ValueError that names a key: unknown, missing, wrong."""
        return cls(parse(_Config, config, {}))

    def encoded(self, x: Tensor, lengths: Tensor) -> DecoderState:
        """`encode` of what the embedding made of a source, x [B, S, width].

        The decoder begins with the last states of both directions, one behind the other, layer by layer.
        """
        # Lengths are read where torch wants them; without that the backward direction would begin in padding.
        packed = pack_padded_sequence(self.dropout(x), lengths.cpu(), batch_first=True, enforce_sorted=False)
        y, ends = self.encoder(packed)
        memory, _ = pad_packed_sequence(y, batch_first=True, total_length=x.shape[1])
        h, c = (end.unflatten(0, (-1, 2)).transpose(1, 2).flatten(2) for end in ends)
        return DecoderState(_layers(h, c), (self.align(memory), memory), lengths)

    def hidden(self, target: Tensor, state: DecoderState) -> tuple[Tensor, DecoderState]:
        """What the head reads, [B, T, width], from target [B, T]; and the state behind it."""
        h, blocks = self._read(target, state.blocks)
        return self._mixed(h, state), state._replace(blocks=blocks)

    def step(self, token: Tensor, state: DecoderState) -> tuple[Tensor, DecoderState]:
        """One step: logits [B, vocabulary] and the state, from token [B]."""
        h, blocks = self._read(token[:, None], state.blocks)
        beams = h[:, 0].unflatten(0, (len(state.lengths), -1))
        return self.head(self._mixed(beams, state).flatten(0, 1)), state._replace(blocks=blocks)

    def looks(self, pair: Pair) -> list[Tensor]:
        """Where the decoder looks, [B, T, S], in a list of one."""
        state = self.encode(pair.source, pair.lengths)
        return [self._weights(self._read(pair.target, state.blocks)[0], state)]

    def _read(self, target: Tensor, blocks: State) -> tuple[Tensor, State]:
        """What the decoder's last layer makes of a target, [B, T, width], and the states behind it."""
        begin = tuple(map(torch.stack, zip(*blocks, strict=True)))
        h, ends = self.decoder(self.dropout(self.embed(target)), begin)
        return h, _layers(*ends)

    def _mixed(self, h: Tensor, state: DecoderState) -> Tensor:
        """tanh(W_c [c; h]) of h [R, T, width], where beams may stand in the place of time."""
        memory = state.remembered[1]
        context = self._weights(h, state).to(memory.dtype) @ memory
        mixed: Tensor = self.dropout(torch.tanh(self.mix(torch.cat([context, h], -1))))
        return mixed

    def _weights(self, h: Tensor, state: DecoderState) -> Tensor:
        """p [B, T, S]."""
        keys = state.remembered[0]
        scores = h.to(keys.dtype) @ keys.transpose(1, 2)
        padding = torch.arange(keys.shape[1], device=keys.device) >= state.lengths[:, None]
        return scores.masked_fill(padding[:, None], -torch.inf).softmax(-1)


def _layers(h: Tensor, c: Tensor) -> State:
    """A state a layer, of h and c [layers, B, width]."""
    return tuple(map(LSTMState, h.unbind(), c.unbind()))


def classic(
    vocabulary: int = 256, width: int = 256, depth: int = 2, *, dropout: float = 0.0, tied: bool = False
) -> ClassicEncoderDecoder:
    """An untrained model of `depth` layers on either side; tied: source, target and head share their table.

    Raises ValueError that names the argument.
    """
    scale = width**0.5 if width > 0 else 1.0
    return ClassicEncoderDecoder(_Config(CLASSIC, vocabulary, width, depth, dropout, tied, scale))
