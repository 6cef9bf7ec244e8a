"""What an encoder-decoder answers: the likeliest sentences that a beam finds, or sentences that are drawn."""

from typing import Any, NamedTuple

import torch
from torch import Tensor

from recurra import state as states
from recurra.models.generate import Sampler, evaluating

__all__ = ["Hypothesis", "Limits", "beam_search", "sample"]


class Limits(NamedTuple):
    """Of a sentence: the token in front of it, the one that ends it, and how many it has at most."""

    begin: int
    end: int
    longest: int


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

    def of(self, sources: Tensor) -> "_Beams":
        """Those of some of the sources."""
        places = torch.arange(self.width, device=sources.device)
        state = states.select(self.state, (sources[:, None] * self.width + places).flatten())
        rows, scores, tokens, following = (x[sources] for x in self[:4])
        return _Beams(rows, scores, tokens, following, state)


@torch.no_grad()
def beam_search(
    model: Any, source: Tensor, lengths: Tensor, limits: Limits, beam: int = 4, penalty: float = 0.6
) -> list[list[Hypothesis]]:
    """The best sentences found for each row of source [B, S], lengths [B]: at most `beam`, the best first.

    beam 1: the likeliest token at every step. penalty: of length, arXiv 1609.08144, equation 14; 0 compares
    log-probabilities as they are, which favours short sentences. What has no end after `longest` tokens
    counts as it is. Memory is that of `beam` states a row. Raises ValueError that names the argument.
    """
    if beam < 1 or limits.longest < 1:
        raise ValueError(f"beam and longest must be at least 1, got {beam} and {limits.longest}")
    found: list[list[Hypothesis]] = [[] for _ in source]
    with evaluating(model):
        beams = _begin(model, source, lengths, limits, beam)
        for length in range(1, limits.longest + 1):
            beams, parents = _chosen(beams, limits, found, _normaliser(length, penalty))
            open_ = _open(beams, found, _normaliser(limits.longest, penalty))
            if not len(open_) or length == limits.longest:
                break
            beams = _read(model, beams, parents).of(open_)
    _give_up(beams, found, _normaliser(limits.longest, penalty))
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


def _open(beams: _Beams, found: list[list[Hypothesis]], normaliser: float) -> Tensor:
    """The sources whose beams may still beat what was found for them; normaliser: that of the longest."""
    reach = (beams.scores[:, 0] / normaliser).tolist()
    done = [sorted((h.score for h in found[row]), reverse=True) for row in beams.rows.tolist()]
    still = [
        len(scores) < beams.width or hope > scores[beams.width - 1]
        for hope, scores in zip(reach, done, strict=True)
    ]
    return torch.tensor(still, device=beams.rows.device).nonzero().flatten()


def _read(model: Any, beams: _Beams, parents: Tensor) -> _Beams:
    """The beams after the model has read their last tokens, from the states of their parents."""
    before = (torch.arange(len(parents), device=parents.device)[:, None] * beams.width + parents).flatten()
    logits, state = model.step(beams.tokens[..., -1].flatten(), states.select(beams.state, before))
    return beams._replace(following=logits.float().log_softmax(-1).unflatten(0, parents.shape), state=state)


def _give_up(beams: _Beams, found: list[list[Hypothesis]], normaliser: float) -> None:
    """What has not ended is an answer where there are too few."""
    for row, scores, tokens in zip(
        beams.rows.tolist(), beams.scores.tolist(), beams.tokens.tolist(), strict=True
    ):
        found[row] += [
            Hypothesis(sentence, score / normaliser)
            for sentence, score in zip(tokens, scores, strict=True)
            if score > -torch.inf
        ]


@torch.no_grad()
def sample(
    model: Any, source: Tensor, lengths: Tensor, limits: Limits, sampler: Sampler, seed: int | None = None
) -> list[list[int]]:
    """One sentence drawn for each row of source [B, S], lengths [B], without its end."""
    sampler.check()
    generator = None if seed is None else torch.Generator(source.device).manual_seed(seed)
    token, drawn = torch.full((len(source),), limits.begin, device=source.device), []
    seen: Tensor | None = None
    with evaluating(model):
        state = model.encode(source, lengths)
        for _ in range(limits.longest):
            logits, state = model.step(token, state)
            token = sampler.draw(logits, seen, generator)
            if sampler.repetition_penalty != 1:
                seen = torch.zeros_like(logits, dtype=torch.bool) if seen is None else seen
                seen = seen.scatter(1, token[:, None], True)
            drawn.append(token)
            if bool(torch.stack(drawn).eq(limits.end).any(0).all()):
                break
    return [_ended(row, limits.end) for row in torch.stack(drawn, 1).tolist()]


def _ended(tokens: list[int], end: int) -> list[int]:
    return tokens[: tokens.index(end)] if end in tokens else tokens
