"""What steering does to answers and to text, for each block and multiplier, and whether that is chance."""

import math
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from recurra.interp.pairs import Pair, alike
from recurra.interp.places import subject
from recurra.interp.steering import steer
from recurra.interp.subject import Place, State, Subject
from recurra.models.generate import Sampler
from recurra.state import concatenate, grows, select

__all__ = ["MULTIPLIERS", "Answers", "Dose", "Writing", "answers", "by_chance", "change", "sweep"]

# Those of arXiv 2404.05971.
MULTIPLIERS = (-3.0, -1.5, -1.0, -0.5, 0.0, 0.5, 1.0, 1.5, 3.0)
_DRAWS = 2000
Vectors = Mapping[Place, Tensor]


class _Asked(NamedTuple):
    """Pairs that are read together: their indices, the state before the last token of the prompt, that
    token [B, 1], matching and other answers [B, M]."""

    rows: list[int]
    state: State
    last: Tensor
    answers: tuple[Tensor, Tensor]


class Answers(NamedTuple):
    """Log probabilities of matching and of other answers, [pairs] each, in fp64."""

    matching: Tensor
    other: Tensor

    @property
    def share(self) -> Tensor:
        """p(matching) / (p(matching) + p(other))."""
        return (self.matching - self.other).sigmoid()

    @property
    def nonsense(self) -> Tensor:
        """1 - p(matching) - p(other); near 1 for answers of many tokens."""
        return (1 - self.matching.exp() - self.other.exp()).clamp(min=0)


class Writing(NamedTuple):
    """Text to be judged: `tokens` more behind each of the first `prompts`, and their bytes."""

    tokens: int
    count_bytes: Callable[[Tensor], int]
    prompts: int = 8


class Dose(NamedTuple):
    """Steering `on` block, layer, state or several ("block+state") of one block, and what came of it.

    matching: the share of the matching answer in the mean over prompts; change: of it, against no steering;
    low, high: 95 % of that over redrawn prompts; p: of so large a change by chance; bits_per_byte: of text
    written so, under the model without steering, None where none was asked for.
    """

    on: str
    block: int
    multiplier: float
    matching: float
    change: float
    low: float
    high: float
    p: float
    nonsense: float
    bits_per_byte: float | None


@torch.no_grad()
def _asked(whole: Subject, pairs: Sequence[Pair]) -> list[_Asked]:
    """Pairs whose answers are of one length; where there is attention, their prompts too."""
    device, groups = whole.unembedding.device, defaultdict[Any, list[tuple[int, State]]](list)
    for i, pair in enumerate(pairs):
        if len(pair.prompt) < 2 or not pair.matching or not pair.other:
            raise ValueError(f"pairs must have prompts of at least two tokens and answers, see pair {i}")
    for rows in alike(pair.prompt for pair in pairs):
        _, state = whole.read(torch.tensor([pairs[i].prompt[:-1] for i in rows], device=device))
        grown = any(grows(whole.named(part)) for part in state)
        for row, i in enumerate(rows):
            length = len(pairs[i].prompt) if grown else 0
            groups[length, len(pairs[i].matching), len(pairs[i].other)].append((i, select(state, [row])))

    def of(rows: list[int], name: str) -> Tensor:
        return torch.tensor([getattr(pairs[i], name) for i in rows], device=device)

    asked = []
    for group in groups.values():
        rows, states = [i for i, _ in group], [state for _, state in group]
        last = torch.tensor([[pairs[i].prompt[-1]] for i in rows], device=device)
        asked.append(_Asked(rows, concatenate(states), last, (of(rows, "matching"), of(rows, "other"))))
    return asked


def _log_p(whole: Subject, state: State, last: Tensor, answer: Tensor) -> Tensor:
    """Of answers [B, M] behind the last token of the prompt, [B]."""
    logits, _ = whole.read(torch.cat([last, answer[:, :-1]], 1), state)
    log_p = logits.double().log_softmax(-1)
    return log_p.gather(-1, answer[..., None])[..., 0].sum(-1).cpu()


@torch.no_grad()
def _answers(whole: Subject, asked: Sequence[_Asked], vectors: Vectors, multiplier: float) -> Answers:
    found = torch.zeros(2, sum(len(one.rows) for one in asked), dtype=torch.float64)
    for one in asked:
        with steer(whole, vectors, multiplier, one.state) as state:
            for side, answer in enumerate(one.answers):
                found[side, one.rows] = _log_p(whole, state or (), one.last, answer)
    return Answers(*found)


def answers(model: Any, pairs: Sequence[Pair], vectors: Vectors, multiplier: float) -> Answers:
    """How likely both answers are, steered from the last token of the prompt on; in states, right before it.

    Raises ValueError for a prompt of fewer than two tokens.
    """
    whole = subject(model)
    return _answers(whole, _asked(whole, pairs), vectors, multiplier)


@torch.no_grad()
def _bits(whole: Subject, asked: Sequence[_Asked], vectors: Vectors, multiplier: float, by: Writing) -> float:
    """Bits per byte, under the model itself, of text that it writes while it is steered."""
    nats, size, sampler = 0.0, 0, Sampler()
    for index, one in enumerate(asked):
        draw = torch.Generator(one.last.device).manual_seed(index)
        token, text = one.last, [one.last]
        with steer(whole, vectors, multiplier, one.state) as begin:
            state = begin
            for _ in range(by.tokens):
                logits, state = whole.read(token, state)
                token = sampler.draw(logits[:, -1], None, draw)[:, None]
                text.append(token)
        written = torch.cat(text, 1)
        logits, _ = whole.read(written[:, :-1], one.state)
        nats += cross_entropy(logits.float().flatten(0, 1), written[:, 1:].flatten(), reduction="sum").item()
        size += by.count_bytes(written[:, 1:])
    return nats / math.log(2) / size if size else math.nan


def change(before: Tensor, after: Tensor, seed: int = 0) -> tuple[float, float, float, float]:
    """mean(after - before) over prompts [P], its bootstrap interval of 95 %, and p.

    p: how often so large a mean, of either sign, comes of differences whose signs are drawn (a permutation
    test of before and after within each prompt).
    """
    apart, draw = (after - before).double(), torch.Generator().manual_seed(seed)
    size, mean = (_DRAWS, len(apart)), float(apart.mean())
    means = apart[torch.randint(len(apart), size, generator=draw)].mean(1)
    low, high = means.quantile(torch.tensor([0.025, 0.975], dtype=torch.float64)).tolist()
    signs = torch.randint(2, size, generator=draw).double() * 2 - 1
    # As large but for rounding counts too.
    larger = ((signs @ apart / len(apart)).abs() >= abs(mean) * (1 - 1e-9)).sum()
    return mean, low, high, (1 + int(larger)) / (1 + _DRAWS)


def by_chance(
    model: Any, pairs: Sequence[Pair], vectors: Vectors, dose: Dose, draws: int = 99, seed: int = 0
) -> float:
    """How often vectors of the same numbers with drawn signs bring as large a share of the matching answer.

    Each in the place of those of `vectors` with which `sweep` came to a dose, of the same pairs. The p of
    `change` asks whether prompts move alike, as they may by any vector; this, whether it takes this one.
    """
    whole, draw = subject(model), torch.Generator().manual_seed(seed)
    asked = _asked(whole, pairs)
    places = [Place(kind, dose.block) for kind in dose.on.split("+")]

    def share() -> float:
        drawn = {place: vectors[place] * _signs(vectors[place], draw) for place in places}
        return float(_answers(whole, asked, drawn, dose.multiplier).share.mean())

    return (1 + sum(share() >= dose.matching for _ in range(draws))) / (1 + draws)


def _signs(like: Tensor, draw: torch.Generator) -> Tensor:
    return (torch.randint(2, like.shape, generator=draw) * 2 - 1).to(like)


def _choices(vectors: Vectors) -> Iterator[tuple[int, dict[Place, Tensor]]]:
    """For each block each of its places alone, then all together."""
    for block in sorted({place.block for place in vectors}):
        own = {place: v for place, v in vectors.items() if place.block == block}
        yield from ((block, {place: v}) for place, v in own.items())
        if len(own) > 1:
            yield block, own


def sweep(
    model: Any,
    pairs: Sequence[Pair],
    vectors: Vectors,
    multipliers: Sequence[float] = MULTIPLIERS,
    writing: Writing | None = None,
    told: Callable[[Dose], None] = lambda dose: None,
    seed: int = 0,
) -> list[Dose]:
    """Every multiplier of every vector, block by block; of a block with several also all of them together.

    pairs: not those that the vectors are of. told is called with each row as it is there. Each p is of one
    row: the best of many is to be tested on other prompts.
    """
    whole, doses = subject(model), list[Dose]()
    asked = _asked(whole, pairs)
    written = _asked(whole, pairs[: writing.prompts]) if writing else []
    before = _answers(whole, asked, {}, 0.0).share
    for block, chosen in _choices(vectors):
        for multiplier in multipliers:
            now = _answers(whole, asked, chosen, multiplier)
            bits = _bits(whole, written, chosen, multiplier, writing) if writing else None
            means = float(now.share.mean()), *change(before, now.share, seed), float(now.nonsense.mean())
            on = "+".join(place.kind for place in chosen)
            doses.append(Dose(on, block, multiplier, *means, bits))
            told(doses[-1])
    return doses
