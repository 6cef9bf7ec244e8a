"""Beams and draws: all sentences written out, the likeliest token, rows alone."""

import itertools
import math
import sys
from typing import Any

import pytest
import torch
from torch import Tensor

from ops.recurrences import NATIVE
from recurra.blocks.table import BLOCKS
from recurra.models import search
from recurra.models.classic import CLASSIC, classic
from recurra.models.encoder_decoder import encoder_decoder
from recurra.models.generate import Sampler
from recurra.models.pairs import Pair
from recurra.models.search import Limits, beam_search, sample
from recurra.models.stepper import PlainStepper, RecordedStepper, stepper
from tools import wake

# Four tokens, of which 0 begins and 3 ends.
SIZE, LIMITS = 4, Limits(0, 3, 4)


def _model(blocks: str = "mingru", size: int = SIZE) -> Any:
    return wake(classic(size, 8) if blocks == CLASSIC else encoder_decoder(blocks, blocks, size, 8, 2))


def _source() -> tuple[Tensor, Tensor]:
    return torch.randint(SIZE, (3, 6)), torch.tensor([6, 1, 3])


def _all(model: Any, source: Tensor, lengths: Tensor, penalty: float) -> list[tuple[float, list[int]]]:
    """Every sentence there is for one source, the best first; behind them those that have no room for an
    end."""
    found = []
    for n in range(LIMITS.longest + 1):
        for words in itertools.product(range(SIZE - 1), repeat=n):
            target = [*words, LIMITS.end][: LIMITS.longest]
            read = torch.tensor([[LIMITS.begin, *target[:-1]]])
            p = model(Pair(source, lengths, read))[0].log_softmax(-1)[0]
            score = sum(p[i, token].item() for i, token in enumerate(target))
            found.append((score / ((5 + len(target)) / 6) ** penalty, list(words)))
    return sorted(found, key=lambda one: (len(one[1]) < LIMITS.longest, one), reverse=True)


@pytest.mark.parametrize("penalty", [0.0, 0.6, 2.0])
@pytest.mark.parametrize("blocks", ["mingru", "transformer", CLASSIC])
@torch.no_grad()
def test_a_wide_beam_finds_the_best(blocks: str, penalty: float) -> None:
    model, (source, lengths) = _model(blocks), _source()
    for row, found in enumerate(beam_search(model, source, lengths, LIMITS, 121, penalty)):
        one = slice(row, row + 1)
        want = _all(model, source[one], lengths[one], penalty)
        for (score, words), got in zip(want, found, strict=True):
            assert got.score == pytest.approx(score, abs=1e-5)
            assert len(got.tokens) == len(words)
        assert found[0].tokens == want[0][1]


@pytest.mark.parametrize("seed", range(8))
@torch.no_grad()
def test_a_beam_of_one_takes_the_likeliest_token(seed: int) -> None:
    """Also where something longer would have scored better, of which there is room."""
    torch.manual_seed(seed)
    model, limits = _model(), LIMITS._replace(longest=30)
    source, lengths = torch.randint(SIZE, (20, 6)), torch.randint(1, 7, (20,))
    for row, (best,) in enumerate(beam_search(model, source, lengths, limits, 1, 2.0)):
        state, words = model.encode(source[row : row + 1], lengths[row : row + 1]), [limits.begin]
        while len(words) <= limits.longest and words[-1] != limits.end:
            logits, state = model.step(torch.tensor(words[-1:]), state)
            words.append(int(logits.argmax()))
        assert best.tokens == [word for word in words[1:] if word != LIMITS.end]


@pytest.mark.parametrize("beam", [1, 2, 3])
@pytest.mark.parametrize("blocks", ["mingru", "transformer", CLASSIC])
def test_rows_are_searched_by_themselves(blocks: str, beam: int) -> None:
    model, (source, lengths) = _model(blocks), _source()
    model.train()
    together = beam_search(model, source, lengths, LIMITS, beam)
    assert model.training
    for row, found in enumerate(together):
        one = slice(row, row + 1)
        (alone,) = beam_search(model, source[one], lengths[one], LIMITS, beam)
        assert [h.tokens for h in found] == [h.tokens for h in alone]
        assert len(found) == beam
        assert sorted(found, key=lambda h: (len(h.tokens) == LIMITS.longest, -h.score)) == found


@NATIVE
@pytest.mark.parametrize("beam", [1, 5])
@pytest.mark.parametrize("blocks", BLOCKS)
def test_what_is_recorded_finds_the_same(blocks: str, beam: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where sentences end one after the other, and where a cache is full."""
    monkeypatch.setattr(sys.modules["recurra.ops.attention"], "ROOM", 4)
    model, (source, lengths), made = _model(blocks, 30).double(), _source(), []

    def recorded(*given: Any) -> Any:
        made.append(stepper(*given))
        return made[-1]

    def found() -> Any:
        limits = LIMITS._replace(longest=torch.tensor([30, 9, 16]))
        drawn = sample(model, source, lengths, limits, Sampler(), seed=0)
        return drawn, beam_search(model, source, lengths, limits, beam, 2.0)

    monkeypatch.setattr(search, "stepper", recorded)
    drawn, got = found()
    assert {type(step) for step in made} == {RecordedStepper}
    monkeypatch.setattr(search, "stepper", PlainStepper)
    plainly, want = found()
    assert drawn == plainly
    for one, other in zip(got, want, strict=True):
        assert [h.tokens for h in one] == [h.tokens for h in other]
        assert [h.score for h in one] == pytest.approx([h.score for h in other], rel=1e-9)


def test_each_row_has_its_own_room() -> None:
    model, (source, lengths) = _model(), _source()
    longest = torch.tensor([1, 4, 2])
    for beam in (1, 3):
        together = beam_search(model, source, lengths, LIMITS._replace(longest=longest), beam)
        for row, found in enumerate(together):
            one, own = slice(row, row + 1), LIMITS._replace(longest=int(longest[row]))
            (alone,) = beam_search(model, source[one], lengths[one], own, beam)
            assert [h.tokens for h in found] == [h.tokens for h in alone]
            assert [h.score for h in found] == pytest.approx([h.score for h in alone], rel=1e-5)
    drawn = sample(model, source, lengths, LIMITS._replace(longest=longest), Sampler(), seed=0)
    assert all(len(row) <= most for row, most in zip(drawn, longest.tolist(), strict=True))


def test_draws_follow_the_model() -> None:
    model, (source, lengths) = _model(), _source()
    many = [x[:1].expand(4000, *x.shape[1:]) for x in (source, lengths)]
    drawn = sample(model, *many, LIMITS, Sampler(), seed=0)
    with torch.no_grad():
        p = {tuple(words): math.exp(score) for score, words in _all(model, source[:1], lengths[:1], 0.0)}
    for words in list(p)[:5]:
        share = sum(tuple(row) == words for row in drawn) / len(drawn)
        assert share == pytest.approx(p[words], abs=4 * (p[words] / len(drawn)) ** 0.5)
    assert sample(model, *many, LIMITS, Sampler(), seed=0) == drawn
    cold = sample(model, source, lengths, LIMITS, Sampler(temperature=0))
    assert cold == [found[0].tokens for found in beam_search(model, source, lengths, LIMITS, 1)]


def test_what_is_wrong_is_named() -> None:
    with pytest.raises(ValueError, match="beam must be at least 1, got 0"):
        beam_search(_model(), *_source(), LIMITS, 0)
    with pytest.raises(ValueError, match="longest must be at least 1, got 0"):
        beam_search(_model(), *_source(), LIMITS._replace(longest=torch.tensor([3, 0, 2])))
    with pytest.raises(ValueError, match="temperature must not be negative"):
        sample(_model(), *_source(), LIMITS, Sampler(temperature=-1))
