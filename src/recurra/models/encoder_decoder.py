"""Sequence to sequence: an encoder reads all of the source, a decoder writes the target step by step."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, cast

from torch import Tensor, nn

from recurra.blocks.common import later
from recurra.blocks.cross_attention import CrossAttention
from recurra.blocks.stack import make
from recurra.blocks.table import BLOCKS, configurable, describe, parse, told
from recurra.models.encoder import Encoder
from recurra.models.head import LanguageHead
from recurra.models.pairs import DecoderState, Pair, SequenceToSequence
from recurra.models.saved import built
from recurra.parts.embedding import Embedding
from recurra.parts.norm import NORMS

__all__ = ["EncoderDecoder", "encoder_decoder"]


class EncoderDecoder(SequenceToSequence):
    """logits = head(decoder(embed(target), encoder(embed(source)))), [B, T, vocabulary].

    Behind each of the decoder's blocks stands a `CrossAttention`, where there is a norm for it. Where both
    sides have the same blocks those of the decoder begin with the last states of the encoder's (arXiv
    1409.3215); without cross-attention that is all they know of the source. tied: source, target and head
    share one table, which is read times sqrt(width) (arXiv 1706.03762, section 3.4). Raises ValueError that
    names the argument.
    """

    # A ModuleList: torch's type forgets of what.
    blocks: Any
    crosses: Any

    def __init__(
        self, encoder: Encoder, blocks: Sequence[nn.Module], head: LanguageHead, embed: Embedding, cross: bool
    ) -> None:
        super().__init__()
        self.passing = alike(encoder.blocks, blocks)
        if not (cross or self.passing):
            raise ValueError("cross: without it a decoder of other blocks knows nothing of the source")
        self.encoder, self.embed, self.head = encoder, embed, head
        self.source = None if head.tied else Embedding(head.size, head.width, 1.0, embed.scale)
        self.blocks = nn.ModuleList(blocks)
        made = [CrossAttention(head.width, head.norm_name, block.config.dropout) for block in self.blocks]
        self.crosses = nn.ModuleList(made if cross else [])

    def encoded(self, x: Tensor, lengths: Tensor) -> DecoderState:
        """`encode` of what the embedding made of a source, x [B, S, width]."""
        memory, ends = self.encoder(x, lengths)
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

    @property
    def config(self) -> dict[str, Any]:
        """All that `from_config` needs to build this model anew, as JSON."""
        head, scale, sides = self.head, self.embed.scale, (self.encoder.blocks, self.blocks)
        encoder, blocks = ([describe(block) for block in side] for side in sides)
        cross = bool(self.crosses)
        return told(_Config(head.size, head.width, head.norm_name, head.tied, cross, encoder, blocks, scale))

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> "EncoderDecoder":
        """The untrained model of a `config`. Raises ValueError that names a key: unknown, missing, wrong."""
        known = parse(_Config, config, {})
        sides = (built(key, getattr(known, key), known.width) for key in ("encoder", "blocks"))
        return _assemble(known, *sides)

    def step(self, token: Tensor, state: DecoderState) -> tuple[Tensor, DecoderState]:
        """One step: logits [B, vocabulary] and the state, from token [B]."""
        return self.decode(self.embed(token), state)

    def decode(self, x_t: Tensor, state: DecoderState) -> tuple[Tensor, DecoderState]:
        """`step` from what the embedding made of a token, x_t [B, width]."""
        ends = []
        for i, (block, begin) in enumerate(zip(self.blocks, state.blocks, strict=True)):
            x_t, end = block.step(x_t, begin)
            if self.crosses:
                x_t = self.crosses[i].step(x_t, state.remembered[i], state.lengths)
            ends.append(end)
        return self.head(x_t), state._replace(blocks=tuple(ends))

    def _look(self, i: int, x: Tensor, state: DecoderState) -> Tensor:
        if not self.crosses:
            return x
        y: Tensor = self.crosses[i](x, state.remembered[i], state.lengths)
        return y

    def looks(self, pair: Pair) -> list[Tensor]:
        """Where the decoder looks, [B, T, S] for each of its attentions, the mean over heads."""
        seen: list[Tensor] = []

        def look(cross: Any, given: tuple[Tensor, Tensor, Tensor]) -> None:
            seen.append(cross.weights(*given).mean(1))

        handles = [cross.register_forward_pre_hook(look) for cross in self.crosses]
        try:
            self(pair)
        finally:
            for handle in handles:
                handle.remove()
        return seen


def alike(encoder: Sequence[Any], decoder: Sequence[Any]) -> bool:
    """Whether blocks have states of one kind and size, one by one; one that sees both sides has none."""

    def sizes(block: Any) -> tuple[type, dict[str, Any]]:
        return type(block), {k: v for k, v in asdict(block.config).items() if k != "dropout"}

    pairs = list(zip(encoder, decoder, strict=False))
    one_way = not any(getattr(block.config, "bidirectional", False) for block in encoder)
    return one_way and len(encoder) == len(decoder) and all(sizes(a) == sizes(b) for a, b in pairs)


@dataclass(frozen=True)
class _Config:
    """The keys of a model's config; `encoder` and `blocks` hold those of the blocks on either side."""

    vocabulary: int
    width: int
    norm: str
    tied: bool
    cross: bool
    encoder: list[Any]
    blocks: list[Any]
    scale: float = later(1.0)


def _assemble(known: _Config, encoder: Sequence[nn.Module], blocks: Sequence[nn.Module]) -> EncoderDecoder:
    """The model of these keys, and of the blocks that were made of the last of them."""
    vocabulary, width, norm = known.vocabulary, known.width, known.norm
    if vocabulary < 1 or width < 1:
        raise ValueError(f"vocabulary and width must be at least 1, got {vocabulary} and {width}")
    if norm not in NORMS:
        raise ValueError(f"norm must be one of {', '.join(NORMS)}, got {norm!r}")
    # What a tied head reads has to be small: it multiplies `width` numbers of size one.
    embed = Embedding(vocabulary, width, width**-0.5 if known.tied else 1.0, known.scale)
    head = LanguageHead(width, vocabulary, norm, embed if known.tied else None)
    return EncoderDecoder(Encoder(encoder, width, norm), blocks, head, embed, known.cross)


def encoder_decoder(
    encoder: str | Sequence[str] = "mingru",
    decoder: str | Sequence[str] = "mingru",
    vocabulary: int = 256,
    width: int = 256,
    depth: int = 3,
    *,
    options: Mapping[str, Any] | None = None,
    cross: bool = True,
    tied: bool = False,
) -> EncoderDecoder:
    """An untrained model of `depth` blocks on either side, by their names in `recurra.blocks.BLOCKS`.

    options: fields of the blocks' configs, for each block that has them. cross: attention to the source
    behind each block of the decoder. tied: source, target and head share their table. Blocks with a choice
    see both sides in the encoder. Raises ValueError that names the argument.
    """
    names = [encoder] if isinstance(encoder, str) else list(encoder)
    given = dict(options or {})
    if any("bidirectional" in configurable(BLOCKS[name]) for name in names if name in BLOCKS):
        given["bidirectional"] = True
    reads, writes = make(names, width, depth, given), make(decoder, width, depth, options)
    norm = cast(Any, writes[-1]).config.norm
    # What blocks read has to be of size one: what they add to their input would drown it.
    scale = width**0.5 if tied and width > 0 else 1.0
    return _assemble(_Config(vocabulary, width, norm, tied, cross, [], [], scale), reads, writes)
