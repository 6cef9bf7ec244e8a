"""Sentences in, sentences out: an encoder-decoder with its vocabulary."""

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import Any

import torch
from torch import Tensor

from recurra.models.encoder_decoder import Pair
from recurra.models.search import Hypothesis, Limits, beam_search

__all__ = ["attention", "best", "padded", "translate"]

# Sentences that are searched at a time.
TOGETHER = 64


def padded(rows: Sequence[Sequence[int]], value: int) -> tuple[Tensor, Tensor]:
    """Tokens [B, T], `value` behind the shorter rows, and their lengths [B]."""
    tensors = [torch.as_tensor(row, dtype=torch.int64) for row in rows]
    lengths = torch.tensor([len(row) for row in rows])
    return torch.nn.utils.rnn.pad_sequence(tensors, batch_first=True, padding_value=value), lengths


def best(
    model: Any, sources: Sequence[Sequence[int]], edge: int, beam: int = 5, penalty: float = 1.0
) -> list[list[Hypothesis]]:
    """The best answers to each source, those of like lengths searched together; a source may be empty.

    edge: the token that begins and ends a sentence. An answer has at most twice the tokens of its source and
    twenty more. penalty: as in `beam_search`.
    """
    device = next(model.parameters()).device
    order = sorted(range(len(sources)), key=lambda i: len(sources[i]))
    found: dict[int, list[Hypothesis]] = {}
    for first in range(0, len(order), TOGETHER):
        chosen = order[first : first + TOGETHER]
        # Its end goes with a sentence: an empty one has a token too.
        tokens, lengths = padded([[*sources[i], edge] for i in chosen], edge)
        limits = Limits(edge, edge, (2 * lengths + 20).to(device))
        answers = beam_search(model, tokens.to(device), lengths.to(device), limits, beam, penalty)
        found |= dict(zip(chosen, answers, strict=True))
    return [found[i] for i in range(len(sources))]


def translate(
    model: Any, sentences: Iterable[str], beam: int = 5, together: int = TOGETHER, penalty: float = 1.0
) -> Iterator[list[tuple[str, float]]]:
    """For each sentence its answers and their scores, the best first, `together` sentences at a time.

    Where there is nothing to translate the answer is empty. The model has its vocabulary; the token behind
    those begins and ends a sentence. Raises ValueError where it has none.
    """
    vocabulary = model.vocabulary
    if vocabulary is None:
        raise ValueError("the model has no vocabulary: it was not trained on sentences")
    lines = iter(sentences)
    while chunk := list(islice(lines, together)):
        said = [vocabulary.encode(line) for line in chunk if line.strip()]
        found = iter(best(model, said, vocabulary.size, beam, penalty))
        for line in chunk:
            hypotheses = next(found) if line.strip() else [Hypothesis([], 0.0)]
            yield [(vocabulary.decode(h.tokens), h.score) for h in hypotheses]


@torch.no_grad()
def attention(model: Any, source: Sequence[int], target: Sequence[int], edge: int) -> Tensor:
    """Where the decoder looks while it writes a target: [layers, T + 1, S + 1], the mean over heads.

    Raises ValueError where it has no cross-attention.
    """
    if not len(model.crosses):
        raise ValueError("the model has no cross-attention: it knows the source by its state alone")
    seen: list[Tensor] = []

    def look(cross: Any, given: tuple[Tensor, Tensor, Tensor]) -> None:
        seen.append(cross.weights(*given)[0].mean(0))

    tokens, lengths = padded([[*source, edge]], edge)
    read, _ = padded([[edge, *target]], edge)
    handles = [cross.register_forward_pre_hook(look) for cross in model.crosses]
    try:
        device = next(model.parameters()).device
        model(Pair(tokens.to(device), lengths.to(device), read.to(device)))
    finally:
        for handle in handles:
            handle.remove()
    return torch.stack(seen).cpu()
