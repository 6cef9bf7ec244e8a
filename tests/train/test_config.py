"""Options: their ranges, and the YAML file that mirrors them."""

import dataclasses

import pytest

from recurra.train.config import TrainConfig, read, write


def test_yaml_holds_every_option(tmp_path):
    config = TrainConfig(source="a: b", model="mingru,minlstm", depth=2, steps=7, lr=1e-3, carry=True)
    write(config, tmp_path / "config.yaml")
    options = read(tmp_path / "config.yaml")
    assert set(options) == {option.name for option in dataclasses.fields(TrainConfig)}
    assert TrainConfig(**options) == config


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("widht: 3", "widht"),
        ("- 1", "must hold options"),
        ("a: [", "is not YAML"),
        ("3", "must hold options"),
    ],
)
def test_a_file_that_is_wrong_is_named(tmp_path, text, named):
    path = tmp_path / "wrong.yaml"
    path.write_text(text)
    with pytest.raises(ValueError, match=named) as fault:
        read(path)
    assert str(path) in str(fault.value)
    assert "\n" not in str(fault.value)


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("width", 0),
        ("width", "wide"),
        ("width", 1.5),
        ("width", True),
        ("lr", -1.0),
        ("lr", float("nan")),
        ("vocabulary", "words"),
        ("precision", "8"),
        ("carry", "yes"),
        ("steps", 0),
        ("model", None),
    ],
)
def test_a_value_out_of_range_is_named(option, value):
    with pytest.raises(ValueError, match=option):
        TrainConfig(**{option: value})


def test_layers_are_one_a_block():
    assert TrainConfig(model="mingru", depth=3).layers == ["mingru"] * 3
    assert TrainConfig(model="mingru, gru", depth=2).layers == ["mingru", "gru"]
    with pytest.raises(ValueError, match="depth is 3"):
        _ = TrainConfig(model="mingru,gru", depth=3).layers


def test_bounds():
    assert TrainConfig().last == 1000
    assert TrainConfig(minutes=1.0).last is None
    assert TrainConfig(minutes=1.0, steps=5).last == 5
