"""What the package exports, and what it says about itself."""

import re

import pytest
import torch

import recurra


def test_exported_names() -> None:
    layers = ["GRU", "LSTM", "MinGRU", "MinLSTM", "Stack"]
    rest = ["language_model", "models", "ops", "quantize", "show_config", "state"]
    interop = ["accelerate", "decelerate", "from_rwkv", "from_transformers", "to_transformers"]
    assert sorted(recurra.__all__) == sorted(["__version__", *layers, *rest, *interop])
    for name in recurra.__all__:
        assert hasattr(recurra, name)


@pytest.mark.filterwarnings("ignore:recurra runs without its native kernels:UserWarning")
def test_show_config(capsys: pytest.CaptureFixture[str]) -> None:
    recurra.show_config()
    said = dict(line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines())
    assert list(said) == ["recurra", "torch", "kernels", "product", "threads", "extras"]
    assert (said["recurra"], said["torch"]) == (recurra.__version__, torch.__version__)
    assert re.match(r"portable|x86-64-v\d|none \(.+\)", said["kernels"])
    assert int(said["threads"]) == torch.get_num_threads()
