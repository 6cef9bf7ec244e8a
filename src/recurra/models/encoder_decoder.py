"""Sequence to sequence: an encoder reads all of the source, a decoder writes the target step by step."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any, NamedTuple

from torch import Tensor, nn

from recurra.blocks.cross_attention import CrossAttention
from recurra.blocks.stack import State, make
from recurra.blocks.table import BLOCKS, configurable
from recurra.models.encoder import Encoder
from recurra.models.head import LanguageHead
from recurra.parts.embedding import Embedding

__all__ = ["DecoderState", "EncoderDecoder", "Pair", "encoder_decoder"]


class Pair(NamedTuple):
    """A source [B, S], of whose tokens lengths [B] count, and the target [B, T] as the decoder reads it."""

    source: Tensor
    lengths: Tensor
    target: Tensor


class DecoderState(NamedTuple):
    """What a decoder goes on from: its blocks' states, and what its cross-attentions know of the source.

    remembered: [B, S, 2, heads, channels] for each, none without cross-attention; lengths [B].
    """

    blocks: State
    remembered: tuple[Tensor, ...]
    lengths: Tensor


class EncoderDecoder(nn.Module):
    """logits = head(decoder(embed(target), encoder(source))), [B, T, vocabulary].

    Behind each of the decoder's blocks stands one of `crosses`, if there are any. passing: the blocks of the
    decoder begin with the last states of those of the encoder (arXiv 1409.3215), which are of their kind;
    without cross-attention that is all they know of the source. Raises ValueError that names the argument.
    """

    # A ModuleList: torch's type forgets of what.
    blocks: Any
    crosses: Any

    def __init__(
        self,
        encoder: Encoder,
        embed: Embedding,
        blocks: Sequence[nn.Module],
        crosses: Sequence[CrossAttention],
        head: LanguageHead,
        passing: bool,
    ) -> None:
        super().__init__()
        if not crosses and not passing:
            raise ValueError(
                "passing: without it and without crosses the decoder knows nothing of the source"
            )
        if crosses and len(crosses) != len(blocks):
            raise ValueError(f"crosses must be as many as blocks, {len(blocks)}, got {len(crosses)}")
        if passing and not alike(encoder.blocks, blocks):
            raise ValueError("passing: the states of these encoder blocks are none of these decoder blocks")
        self.encoder, self.embed, self.head, self.passing = encoder, embed, head, passing
        self.blocks, self.crosses = nn.ModuleList(blocks), nn.ModuleList(crosses)

    def encode(self, source: Tensor, lengths: Tensor) -> DecoderState:
        """Where the decoder starts, from source [B, S] with lengths [B] of at least 1."""
        self._check(source, lengths)
        memory, ends = self.encoder(source, lengths)
        begin = ends if self.passing else (None,) * len(self.blocks)
        return DecoderState(begin, tuple(cross.remember(memory) for cross in self.crosses), lengths)

    def hidden(self, target: Tensor, state: DecoderState) -> tuple[Tensor, DecoderState]:
        """What the head reads, [B, T, width], from target [B, T]; and the state behind it."""
        x, ends = self.embed(target), []
        for i, (block, begin) in enumerate(zip(self.blocks, state.blocks, strict=True)):
            x, end = block(x, begin)
            x = self._look(i, x, state)
            ends.append(end)
        return x, state._replace(blocks=tuple(ends))

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

    def step(self, token: Tensor, state: DecoderState) -> tuple[Tensor, DecoderState]:
        """One step: logits [B, vocabulary] and the state, from token [B]."""
        x_t, ends = self.embed(token), []
        for i, (block, begin) in enumerate(zip(self.blocks, state.blocks, strict=True)):
            x_t, end = block.step(x_t, begin)
            x_t = self._look(i, x_t[:, None], state)[:, 0]
            ends.append(end)
        return self.head(x_t), state._replace(blocks=tuple(ends))

    def _look(self, i: int, x: Tensor, state: DecoderState) -> Tensor:
        if not self.crosses:
            return x
        y: Tensor = self.crosses[i](x, state.remembered[i], state.lengths)
        return y

    @staticmethod
    def _check(source: Tensor, lengths: Tensor) -> None:
        if source.ndim != 2 or not source.shape[1]:
            raise ValueError(f"source must be [batch, at least 1], got {list(source.shape)}")
        if tuple(lengths.shape) != source.shape[:1]:
            raise ValueError(f"lengths must be [{len(source)}], got {list(lengths.shape)}")


def alike(encoder: Sequence[Any], decoder: Sequence[Any]) -> bool:
    """Whether blocks have states of one kind and size, one by one; one that sees both sides has none."""

    def sizes(block: Any) -> tuple[type, dict[str, Any]]:
        return type(block), {k: v for k, v in asdict(block.config).items() if k != "dropout"}

    pairs = list(zip(encoder, decoder, strict=False))
    one_way = not any(getattr(block.config, "bidirectional", False) for block in encoder)
    return one_way and len(encoder) == len(decoder) and all(sizes(a) == sizes(b) for a, b in pairs)


def encoder_decoder(
    encoder: str | Sequence[str] = "mingru",
    decoder: str | Sequence[str] = "mingru",
    source: int = 256,
    target: int = 256,
    width: int = 256,
    depth: int = 3,
    *,
    cross: bool = True,
    options: Mapping[str, Any] | None = None,
) -> EncoderDecoder:
    """An untrained model from `source` to `target` tokens: `depth` blocks on either side, by their names.

    options: fields of the blocks' configs, for each block that has them. cross: attention to the source
    behind each block of the decoder. States are passed where both sides have the same blocks. Blocks with a
    choice see both sides in the encoder. Raises ValueError that names the argument.
    """
    names = [encoder] if isinstance(encoder, str) else encoder
    two_way = any("bidirectional" in configurable(BLOCKS[name]) for name in names if name in BLOCKS)
    reads = make(encoder, width, depth, {**(options or {}), **({"bidirectional": True} if two_way else {})})
    writes: list[Any] = make(decoder, width, depth, options)
    norm, dropout = writes[-1].config.norm, writes[-1].config.dropout
    crosses = [CrossAttention(width, norm, dropout) for _ in writes] if cross else []
    embeds = Embedding(source, width), Embedding(target, width)
    return EncoderDecoder(
        Encoder(embeds[0], reads, norm),
        embeds[1],
        writes,
        crosses,
        LanguageHead(width, target, norm),
        alike(reads, writes),
    )
