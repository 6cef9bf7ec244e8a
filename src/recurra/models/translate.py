"""Sentences in, sentences out: an encoder-decoder with its vocabulary."""

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import Any

import torch
from torch import Tensor

from recurra.models.generate import evaluating
from recurra.models.pairs import Pair
from recurra.models.search import Hypothesis, Limits, beam_search

__all__ = ["answers", "best", "maps", "padded", "saliency", "translate"]

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


def answers(
    model: Any, sentences: Iterable[str], beam: int = 5, together: int = TOGETHER, penalty: float = 1.0
) -> Iterator[tuple[str, list[Hypothesis]]]:
    """Each sentence and its answers in tokens, the best first, `together` sentences at a time.

    Sentences lose the white space around them, as those to train on did. Where there is nothing to translate
    the answer is empty. The model has its vocabulary; the token behind those begins and ends a sentence.
    Raises ValueError where it has none.
    """
    vocabulary = model.vocabulary
    if vocabulary is None:
        raise ValueError("the model has no vocabulary: it was not trained on sentences")
    lines = map(str.strip, sentences)
    while chunk := list(islice(lines, together)):
        said = [vocabulary.encode(line) for line in chunk if line]
        found = iter(best(model, said, vocabulary.size, beam, penalty))
        for line in chunk:
            yield line, next(found) if line else [Hypothesis([], 0.0)]


def translate(
    model: Any, sentences: Iterable[str], beam: int = 5, together: int = TOGETHER, penalty: float = 1.0
) -> Iterator[list[tuple[str, float]]]:
    """The `answers` to each sentence as texts, with their scores."""
    for _, found in answers(model, sentences, beam, together, penalty):
        yield [(model.vocabulary.decode(h.tokens), h.score) for h in found]


def maps(model: Any, source: Sequence[int], target: Sequence[int], edge: int) -> dict[str, Tensor]:
    """What of a source each token of a target comes from, [T + 1, S + 1] with their ends, by its title.

    Where the decoder's attentions look, the mean over heads; of a model without any its `saliency`.
    """
    pair = _pair(model, source, target, edge)
    with torch.no_grad(), evaluating(model):
        looks = model.looks(pair)
    if not looks:
        return {"saliency: gradients by the source": saliency(model, pair, edge).cpu()}
    return {f"attention of decoder block {i}": seen[0].cpu() for i, seen in enumerate(looks)}


def saliency(model: Any, pair: Pair, edge: int) -> Tensor:
    """|d log p(token) / d x_s| of each token of one target, and of its end, [T, S]; each row's sum is 1.

    x_s is what the encoder reads at step s (arXiv 1312.6034, section 3, of words for pixels).
    """
    written = torch.cat([pair.target[0, 1:], pair.target.new_tensor([edge])])
    with torch.enable_grad(), evaluating(model):
        x = model.represented(pair.source).detach().requires_grad_()
        hidden, _ = model.hidden(pair.target, model.encoded(x, pair.lengths))
        log_p = model.head(hidden)[0].float().log_softmax(-1).gather(1, written[:, None])[:, 0]
        each = [torch.autograd.grad(token, x, retain_graph=True)[0] for token in log_p]
    return torch.nn.functional.normalize(torch.cat(each).norm(dim=-1), p=1, dim=-1)


def _pair(model: Any, source: Sequence[int], target: Sequence[int], edge: int) -> Pair:
    """A source with its end, and what a decoder reads while it writes the target and its end."""
    tokens, lengths = padded([[*source, edge]], edge)
    read, _ = padded([[edge, *target]], edge)
    device = next(model.parameters()).device
    return Pair(tokens.to(device), lengths.to(device), read.to(device))
