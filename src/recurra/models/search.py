"""What an encoder-decoder answers: the likeliest sentences that a beam finds, or sentences that are drawn."""

from operator import itemgetter
from typing import Any, NamedTuple

import torch
from torch import Tensor

from recurra import state as states
from recurra.models.generate import Sampler, evaluating
from recurra.models.pairs import DecoderState
from recurra.models.stepper import PlainStepper, RecordedStepper, renewed, stepper

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


class _Sentence:
    """What is known of the answer to one source: beginnings, with their log-probabilities, and whole ones."""

    def __init__(self, longest: int, limits: Limits, beam: int, penalty: float) -> None:
        self.longest, self.end, self.beam, self.penalty = longest, limits.end, beam, penalty
        self.begun: list[tuple[list[int], float]] = [([], 0.0)]
        self.found: list[Hypothesis] = []
        self.cut: list[Hypothesis] = []

    def grow(self, words: list[list[int]], following: list[list[float]]) -> list[int]:
        """Make each beginning one token longer, the best of all that are possible: which one each comes from.

        words and following: the likeliest tokens behind each beginning and their log-probabilities, two for
        each of the beam: where half of the best end, the other half goes on.
        """
        each = enumerate(zip(words, following, self.begun, strict=True))
        made = [
            (score + p, parent, word)
            for parent, (their_words, their_p, (_, score)) in each
            for word, p in zip(their_words, their_p, strict=True)
        ]
        best = sorted(made, key=itemgetter(0), reverse=True)[: 2 * self.beam]
        for score, parent, _ in (one for one in best[: self.beam] if one[2] == self.end):
            tokens = self.begun[parent][0]
            self.found.append(self._scored(tokens, score, len(tokens) + 1))
        going = [one for one in best if one[2] != self.end][: self.beam]
        self.begun = [([*self.begun[parent][0], word], score) for score, parent, word in going]
        return [parent for _, parent, _ in going]

    def goes_on(self) -> bool:
        """Whether a beginning may still beat what was found; where there is no room left, it is cut off."""
        tokens, score = self.begun[0]
        if len(tokens) == self.longest:
            self.cut = [self._scored(begun, p, self.longest) for begun, p in self.begun]
            return False
        if self.beam == 1 and self.found:  # what goes on is not the likeliest token
            return False
        best = score / _normaliser(self.longest, self.penalty)
        return len(self.answers()) < self.beam or self.answers()[-1].score < best

    def answers(self) -> list[Hypothesis]:
        """The best that were found; of those that were cut off only what there is room for."""
        found = sorted(self.found, key=lambda h: -h.score)
        return [*found, *self.cut][: self.beam]

    def _scored(self, tokens: list[int], score: float, length: int) -> Hypothesis:
        return Hypothesis(tokens, score / _normaliser(length, self.penalty))


def _normaliser(length: int, penalty: float) -> float:
    return float(((5 + length) / 6) ** penalty)


class _Decoder:
    """logits [B, V] = decoder(token [B]): the steps of an encoder-decoder, for rows that come and go.

    Recording a step costs as much as several: it waits for as many steps of the same rows as there are
    sources, for the more there are, the sooner one of them ends. By then all blocks have states.
    """

    def __init__(self, model: Any, state: DecoderState) -> None:
        self._begin(model, state)

    def _begin(self, model: Any, state: DecoderState) -> None:
        self._step: PlainStepper | RecordedStepper = PlainStepper(model, state)
        self._calls, self._rows, self._sources = 0, 0, len(state.lengths)

    def __call__(self, token: Tensor) -> Tensor:
        if self._calls == self._sources:
            self._step = stepper(self._step.model, self._step.state)
        self._step = renewed(self._step)
        self._calls, self._rows = self._calls + 1, len(token)
        return self._step(token)

    def select(self, rows: list[int], sources: list[int]) -> None:
        """Go on from these rows of the batch, and what is known of these sources."""
        if len(rows) != self._rows or len(sources) != self._sources:
            self._begin(self._step.model, _selected(self._step.state, rows, sources))
        elif rows != list(range(len(rows))):
            self._step.select(torch.tensor(rows))


def _selected(state: DecoderState, rows: list[int], sources: list[int]) -> DecoderState:
    """The state of some rows, and what is known of some sources; what stays as it is, is not copied."""
    blocks, remembered, lengths = state
    if len(sources) < len(lengths):
        remembered, lengths = states.select((remembered, lengths), sources)
    return DecoderState(states.select(blocks, rows), remembered, lengths)


@torch.no_grad()
def beam_search(
    model: Any, source: Tensor, lengths: Tensor, limits: Limits, beam: int = 4, penalty: float = 0.6
) -> list[list[Hypothesis]]:
    """The best sentences found for each row of source [B, S], lengths [B]: at most `beam`, the best first.

    beam 1: the likeliest token at every step. penalty: of length, arXiv 1609.08144, equation 14; 0 compares
    log-probabilities as they are, which favours short sentences. What has no end after `longest` tokens
    comes behind all that have one: a beginning is likelier than each of its sentences. Memory is that of
    `beam` states a row. Raises ValueError that names the argument.
    """
    if beam < 1:
        raise ValueError(f"beam must be at least 1, got {beam}")
    sentences = [_Sentence(n, limits, beam, penalty) for n in limits.each(source).tolist()]
    with evaluating(model):
        open_ones, tokens = list(sentences), [limits.begin] * len(source)
        decoder = _Decoder(model, model.encode(source, lengths))
        while open_ones:
            logits = decoder(torch.tensor(tokens, device=source.device))
            rows = _grown(open_ones, *_likeliest(logits, beam))
            going = [i for i, one in enumerate(open_ones) if one.goes_on()]
            decoder.select([row for i in going for row in rows[i]], going)
            open_ones = [open_ones[i] for i in going]
            tokens = [begun[-1] for one in open_ones for begun, _ in one.begun]
    return [one.answers() for one in sentences]


def _likeliest(logits: Tensor, beam: int) -> tuple[list[list[int]], list[list[float]]]:
    """The 2 `beam` likeliest tokens of each row of logits [B, V], all where V is less, and their
    log-probabilities."""
    p, words = logits.float().log_softmax(1).topk(min(2 * beam, logits.shape[1]))
    return words.tolist(), p.tolist()


def _grown(
    sentences: list[_Sentence], words: list[list[int]], following: list[list[float]]
) -> list[list[int]]:
    """Of each sentence the rows of the state that its beginnings come from, once they are longer."""
    count, rows = len(words) // len(sentences), []
    for first, one in zip(range(0, len(words), count), sentences, strict=True):
        own = slice(first, first + count)
        rows.append([first + parent for parent in one.grow(words[own], following[own])])
    return rows


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
        step: PlainStepper | RecordedStepper = PlainStepper(model, model.encode(source, lengths))
        for i in range(int(limits.each(source).max())):
            # All rows stay to the end. Once something was read, all blocks have states.
            step = stepper(model, step.state) if i == 1 else renewed(step)
            logits = step(token)
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
