"""Options: their ranges, and the YAML file that mirrors them."""

import dataclasses
import random

import pytest

from recurra.train.config import TrainConfig, read, write
from tools import mutated


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
        ("width: wide", "width must be int"),
        ("width: !!int", "is not YAML"),
        ("width: 2001-99-99", "is not YAML"),
        ("[" * 5000, "is not YAML"),
        ("width: " + "9" * 5000, "is not YAML"),
    ],
)
def test_a_file_that_is_wrong_is_named(tmp_path, text, named):
    path = tmp_path / "wrong.yaml"
    path.write_text(text)
    with pytest.raises(ValueError, match=named) as fault:
        read(path)
    assert str(path) in str(fault.value)
    assert "\n" not in str(fault.value)


@pytest.mark.parametrize("count", [50, pytest.param(2000, marks=pytest.mark.slow)])
def test_mutated_files_are_named_or_say_what_is_read(tmp_path, count):
    """A person may edit this file, so that another value in it is no damage: what is read is what it says."""
    path, again = tmp_path / "config.yaml", tmp_path / "again.yaml"
    config = TrainConfig(source="some text", model="mingru,gru", depth=2, minutes=0.5, lr=1e-3, carry=True)
    write(config, path)
    whole, draw, told = path.read_bytes(), random.Random(0), []
    for _ in range(count):
        path.write_bytes(mutated(whole, draw))
        try:
            got = TrainConfig(**read(path))
        except ValueError as e:
            told.append(str(e))
        else:
            write(got, again)
            assert TrainConfig(**read(again)) == got
    assert len(told) > 0.5 * count
    assert all(str(path) in message and "\n" not in message for message in told)


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
    assert TrainConfig(model="mingru,gru", depth=4).layers == ["mingru", "gru"] * 2
    with pytest.raises(ValueError, match="depth is 3"):
        _ = TrainConfig(model="mingru,gru", depth=3).layers


def test_depth_is_whole_turns():
    assert TrainConfig().depth == TrainConfig(model="mingru,gru").depth == 6
    assert TrainConfig(model="xlstm", pattern="7:1").layers == ["mlstm"] * 7 + ["slstm"]
    assert TrainConfig(model="xlstm", pattern="1:1").depth == 6
    with pytest.raises(ValueError, match=r"8 blocks in turn, depth is 6"):
        _ = TrainConfig(model="xlstm", depth=6).layers
    with pytest.raises(ValueError, match=r"pattern must be one number for each of mingru, gru, got '7:x'"):
        TrainConfig(model="mingru,gru", pattern="7:x")


def test_shape_is_what_was_chosen():
    assert TrainConfig().shape == {"dropout": 0.0}
    config = TrainConfig(mlp=0.0, options="norm=layer, state=8,forget_bias=1.5,on=true")
    fields = {"norm": "layer", "state": 8, "forget_bias": 1.5, "on": True}
    assert config.shape == {"dropout": 0.0, "mlp": 0.0, **fields}


def test_bounds():
    assert TrainConfig().last == 1000
    assert TrainConfig(minutes=1.0).last is None
    assert TrainConfig(minutes=1.0, steps=5).last == 5
