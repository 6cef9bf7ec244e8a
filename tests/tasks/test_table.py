"""A task and its options as a person writes them."""

import dataclasses

import pytest

from recurra.tasks.table import TASKS, name_of, parse
from recurra.train.config import TrainConfig


def test_options_are_fields():
    task = parse("selective_copying:count=8")
    assert task == TASKS["selective_copying"](count=8)
    assert name_of("selective_copying:count=8") == "selective_copying"
    assert parse("selective_copying") == TASKS["selective_copying"]()


@pytest.mark.parametrize(
    ("task", "named"),
    [
        ("juggling", "task must be one of text, .*, got 'juggling'"),
        ("", "task must be one of"),
        ("parity:longest=3", "task parity has no option 'longest'; known are shortest"),
        ("parity:", "task parity has no option ''"),
        ("parity:shortest", "shortest of task parity must be int, got ''"),
        ("parity:shortest=few", "shortest of task parity must be int, got 'few'"),
        ("parity:shortest=0", "shortest must be at least 1, got 0"),
        ("text:size=3", "task text has no option 'size'; known are none"),
    ],
)
def test_what_is_wrong_is_named(task, named):
    with pytest.raises(ValueError, match=named):
        parse(task)
    with pytest.raises(ValueError, match=named):
        TrainConfig(task=task)


@pytest.mark.parametrize("name", TASKS)
def test_every_option_has_a_default_and_is_a_plain_value(name):
    for field in dataclasses.fields(TASKS[name]):
        assert field.type in {int, float, str}
        assert parse(f"{name}:{field.name}={field.default}") == parse(name)


def test_the_context_is_the_tasks_own_unless_told():
    assert TrainConfig().context == 256
    assert TrainConfig(task="parity").context == 40
    assert TrainConfig(task="parity", context=30).context == 30
