"""What an encoder-decoder answers: the likeliest sentences that a beam finds, or sentences that are drawn."""

from itertools import count
from typing import Any, NamedTuple

import torch
from torch import Tensor

from recurra import state as states
from recurra.models.generate import Sampler, evaluating

__all__ = ["Hypothesis", "Limits", "beam_search", "sample"]


class Limits(NamedTuple):
    """Of sentences: the token in front of each, the one that ends it, how many it has at most, [B] or all."""

    begin: int
    end: int
    longest: Tensor | int

    def each(self, source: Tensor) -> Tensor:
        """How many tokens each sentence has at most. Raises ValueError where that is none."""
        longest = torch.as_tensor(self.longest, device=source.device).expand(len(source))
        if len(source) and int(longest.min()) < 1:
            raise ValueError(f"longest must be at least 1, got {int(longest.min())}")
        return longest


class Hypothesis(NamedTuple):
    """A sentence without its end, and its log-probability over ((5 + n) / 6)^penalty, n counting the end."""

    tokens: list[int]
    score: float


class _Beams(NamedTuple):
    """Beginnings of sentences, K for each of R sources: its number rows [R], log-probabilities [R, K],
    tokens [R, K, t], log p of what follows [R, K, V] and a state of R K rows."""

    rows: Tensor
    scores: Tensor
    tokens: Tensor
    following: Tensor
    state: Any

    @property
    def width(self) -> int:
        return self.scores.shape[1]


@torch.no_grad()
def beam_search(
    model: Any, source: Tensor, lengths: Tensor, limits: Limits, beam: int = 4, penalty: float = 0.6
) -> list[list[Hypothesis]]:
    """The best sentences found for each row of source [B, S], lengths [B]: at most `beam`, the best first.

    beam 1: the likeliest token at every step. penalty: of length, arXiv 1609.08144, equation 14; 0 compares
    log-probabilities as they are, which favours short sentences. What has no end after `longest` tokens
    counts as it is. Memory is that of `beam` states a row. Raises ValueError that names the argument.
    """
    if beam < 1:
        raise ValueError(f"beam must be at least 1, got {beam}")
    longest, found = limits.each(source), [list[Hypothesis]() for _ in source]
    with evaluating(model):
        beams = _begin(model, source, lengths, limits, beam)
        for length in count(1):
            beams, parents = _chosen(beams, limits, found, _normaliser(length, penalty))
            left = longest[beams.rows] - length
            _give_up(beams, left <= 0, found, _normaliser(length, penalty))
            reach = [_normaliser(n, penalty) for n in (left + length).tolist()]
            going_on = _may_improve(beams, found, reach) & (left > 0)
            if not going_on.any():
                break
            beams = _read(model, beams, parents, going_on.nonzero().flatten())
    return [sorted(kept, key=lambda h: -h.score)[:beam] for kept in found]


def _normaliser(length: int, penalty: float) -> float:
    return float(((5 + length) / 6) ** penalty)


def _begin(model: Any, source: Tensor, lengths: Tensor, limits: Limits, beam: int) -> _Beams:
    """Beams that are all alike, of which only the first counts."""
    first = torch.full((len(source),), limits.begin, device=source.device)
    logits, state = model.step(first, model.encode(source, lengths))
    rows = torch.arange(len(source), device=source.device)
    scores = torch.full((len(source), beam), -torch.inf, device=source.device)
    scores[:, 0] = 0
    p = logits.float().log_softmax(-1)[:, None].expand(-1, beam, -1)
    tokens = rows.new_empty(len(source), beam, 0)
    return _Beams(rows, scores, tokens, p, states.select(state, rows.repeat_interleave(beam)))


def _chosen(
    beams: _Beams, limits: Limits, found: list[list[Hypothesis]], normaliser: float
) -> tuple[_Beams, Tensor]:
    """Each beam one token longer, the best of all that are possible, and which beam [R, K] each comes from.

    Those that end among the best K are found.
    """
    width, size = beams.width, beams.following.shape[-1]
    total = (beams.scores[..., None] + beams.following).flatten(1)
    scores, flat = total.topk(min(2 * width, total.shape[1]))
    parents, token = flat // size, flat % size
    tokens = torch.cat([_along(beams.tokens, parents), token[..., None]], 2)
    ended = token == limits.end
    best = torch.arange(scores.shape[1], device=token.device) < width
    for r, k in (ended & best & scores.isfinite()).nonzero().tolist():
        sentence = tokens[r, k, :-1].tolist()
        found[int(beams.rows[r])].append(Hypothesis(sentence, float(scores[r, k]) / normaliser))
    order = ended.int().argsort(dim=1, stable=True)[:, :width]
    scores = scores.masked_fill(ended, -torch.inf).gather(1, order)
    return beams._replace(scores=scores, tokens=_along(tokens, order)), parents.gather(1, order)


def _along(x: Tensor, index: Tensor) -> Tensor:
    """x [R, K, t] at index [R, J] of its second axis."""
    return x.gather(1, index[..., None].expand(-1, -1, x.shape[2]))


def _may_improve(beams: _Beams, found: list[list[Hypothesis]], normalisers: list[float]) -> Tensor:
    """[R] bool: beams that may still beat what was found for them; normalisers: those of the longest."""
    best = (beams.scores[:, 0].tolist(), beams.rows.tolist(), normalisers)
    done = [
        len(found[row]) >= beams.width
        and sorted(h.score for h in found[row])[-beams.width] >= score / normaliser
        for score, row, normaliser in zip(*best, strict=True)
    ]
    return ~torch.tensor(done, dtype=torch.bool, device=beams.rows.device)


def _read(model: Any, beams: _Beams, parents: Tensor, which: Tensor) -> _Beams:
    """The beams of some sources, of which the model has read the last tokens, from their parents' states."""
    rows, scores, tokens = (x[which] for x in (beams.rows, beams.scores, beams.tokens))
    before = (which[:, None] * beams.width + parents[which]).flatten()
    if len(which) == len(parents):  # what is remembered of a source is the same for all of its beams
        state = beams.state._replace(blocks=states.select(beams.state.blocks, before))
    else:
        state = states.select(beams.state, before)
    logits, state = model.step(tokens[..., -1].flatten(), state)
    following = logits.float().log_softmax(-1).unflatten(0, scores.shape)
    return _Beams(rows, scores, tokens, following, state)


def _give_up(beams: _Beams, which: Tensor, found: list[list[Hypothesis]], normaliser: float) -> None:
    """Where there is no room for more, what has not ended is an answer."""
    for r in which.nonzero().flatten().tolist():
        for score, tokens in zip(beams.scores[r].tolist(), beams.tokens[r].tolist(), strict=True):
            if score > -torch.inf:
                found[int(beams.rows[r])].append(Hypothesis(tokens, score / normaliser))


@torch.no_grad()
def sample(
    model: Any, source: Tensor, lengths: Tensor, limits: Limits, sampler: Sampler, seed: int | None = None
) -> list[list[int]]:
    """One sentence drawn for each row of source [B, S], lengths [B], without its end."""
    sampler.check()
    generator = None if seed is None else torch.Generator(source.device).manual_seed(seed)
    token, drawn = torch.full((len(source),), limits.begin, device=source.device), []
    ended, seen = torch.zeros_like(token, dtype=torch.bool), None
    with evaluating(model):
        state = model.encode(source, lengths)
        for _ in range(int(limits.each(source).max())):
            logits, state = model.step(token, state)
            token = sampler.draw(logits, seen, generator)
            if sampler.repetition_penalty != 1:
                seen = torch.zeros_like(logits, dtype=torch.bool) if seen is None else seen
                seen = seen.scatter(1, token[:, None], True)
            drawn.append(token)
            ended |= token == limits.end
            if ended.all():
                break
    rows = zip(torch.stack(drawn, 1).tolist(), limits.each(source).tolist(), strict=True)
    return [_ended(row[:longest], limits.end) for row, longest in rows]


def _ended(tokens: list[int], end: int) -> list[int]:
    return tokens[: tokens.index(end)] if end in tokens else tokens
