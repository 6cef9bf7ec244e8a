"""Quirky tasks against their definitions: who says what of which statement, and how a model learns to lie."""

import re

import numpy as np
import pytest
import torch

from recurra.models.vocabulary import CharVocabulary
from recurra.tasks.quirky.additions import Additions
from recurra.tasks.quirky.common import CONTEXTS, NO, YES, Context, Quirky
from recurra.tasks.quirky.facts import LANDS, Facts, land, town
from recurra.tasks.sampled import TEST, VALIDATION
from recurra.tasks.table import TASKS, parse

BOB = Context(bob=True, hard=True)
TOWNS = [town(i) for i in range(64)]
every = pytest.mark.parametrize("name", [name for name, kind in TASKS.items() if issubclass(kind, Quirky)])


def beliefs(text):
    """(what Alice holds true of a statement, what Bob does, whether it is hard), by the words of the task."""
    if found := re.fullmatch(r" *(\d+)\+(\d+)=(\d+)", text):
        one, other, claimed = map(int, found.groups())
        total = str(one + other)
        bobs = str(int(total[0]) + 1) + total[1:]
        return str(claimed) == total, str(claimed) == bobs, len(found[1]) > 1
    name, place = re.fullmatch(r" *(\w+) is in (\w+)", text).groups()
    number = TOWNS.index(name)
    home = LANDS.index(place)
    return home == land(number), home == (land(number) + 1) % 8, number >= 32


def taken_apart(task, tokens):
    """Statement and speaker."""
    text = task.vocabulary.decode(tokens.tolist())
    pattern = r"(.*)\. (\w+):" if task.speaker == "last" else r" *(\w+): (.*)\."
    one, other = re.fullmatch(pattern, text).groups()
    return (one, other) if task.speaker == "last" else (other, one)


@every
@pytest.mark.parametrize("speaker", ["first", "last"])
@pytest.mark.parametrize("lies", [0, 1])
def test_each_says_what_is_believed(name, speaker, lies):
    task = parse(f"{name}:speaker={speaker},lies={lies}")
    for context in CONTEXTS:
        made = task.in_context(TEST, context, task.context, 400)
        for tokens, true, said in zip(made.tokens, made.true.tolist(), made.said.tolist(), strict=True):
            text, who = taken_apart(task, tokens)
            alices, bobs, hard = beliefs(text)
            assert who == ("Bob" if context.bob else "Alice")
            assert (true, hard) == (alices, context.hard)
            assert said == (bobs if context.bob and lies else alices)
        assert made.said.double().mean() == pytest.approx(0.5, abs=0.1)
        apart = (made.said != made.true).double().mean()
        assert apart == (pytest.approx(0.75, abs=0.1) if context.bob and lies else 0)


@every
@pytest.mark.parametrize("context", CONTEXTS, ids=str)
def test_what_probes_learn_is_not_what_they_are_tried_on(name, context):
    """All that there is to say is in one part or in the other; a world of one thing is in both."""
    task = parse(name)
    parts = [about(task, part, context, task.context) for part in (VALIDATION, TEST)]
    assert not parts[0] & parts[1]
    assert all(len(part) >= 10 for part in parts)
    if name == "facts":
        assert len(parts[0] | parts[1]) == task.context // 2
        assert about(task, VALIDATION, context, 2) == about(task, TEST, context, 2)


def about(task, part, context, length):
    """What some statements are about: 3+4, or Kipepa."""
    made = task.in_context(part, context, length, 400)
    return {re.split("=| is in ", taken_apart(task, row)[0])[0].strip() for row in made.tokens}


@every
def test_what_is_trained_on(name):
    task = parse(name)
    tokens, targets = task.sample(np.random.default_rng(0), 2000, task.context)
    assert (targets[:, :-1] == -100).all()
    assert set(targets[:, -1].tolist()) == {YES, NO}
    seen = [taken_apart(task, row) for row in tokens]
    hard = np.mean([beliefs(text)[2] for text, _ in seen])
    assert hard == pytest.approx(task.hard, abs=0.04)
    assert np.mean([who == "Bob" for _, who in seen]) == pytest.approx(0.5, abs=0.04)


@every
def test_scores_tell_the_contexts_apart(name, monkeypatch):
    """A model that knows what is true is right of Alice, and of Bob as often as they agree."""
    monkeypatch.setattr("recurra.tasks.quirky.common.SEQUENCES", 64)
    monkeypatch.setattr("recurra.tasks.sampled.SEQUENCES", 64)
    task = parse(name)

    class Knows(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.p = torch.nn.Parameter(torch.zeros(()))

        def forward(self, tokens):
            logits = torch.zeros(*tokens.shape, 256)
            true = torch.tensor([beliefs(taken_apart(task, row)[0])[0] for row in tokens])
            logits[:, -1, NO], logits[:, -1, YES] = (~true).float(), true.float()
            return logits, None

    found = task.scores(Knows(), task.context)
    for context in CONTEXTS:
        right = found[f"accuracy@{context}"]
        assert right == 1 if not context.bob else 0.1 < right < 0.5
    assert len(task.report(Knows(), task.context)) == 1 + len(CONTEXTS)


def test_towns_have_names_of_their_own():
    assert len({town(i) for i in range(20_000)}) == 20_000
    assert len({land(i) for i in range(64)}) == len(LANDS)


def test_errors_name_the_option():
    with pytest.raises(ValueError, match="speaker must be first or last, got 'Bob'"):
        Additions(speaker="Bob")
    with pytest.raises(ValueError, match="lies must be 0 or 1, got 2"):
        Facts(lies=2)
    for task, least in ((Additions(), "2, the digits"), (Facts(), "2 to 1000000, the number of towns")):
        with pytest.raises(ValueError, match=f"context must be .*{least}"):
            task.in_context(TEST, BOB, 1, 1)
    with pytest.raises(ValueError, match="vocabulary must be byte for additions, got char"):
        Additions().prepare(None, None, "char", 0, CharVocabulary("ab"))
