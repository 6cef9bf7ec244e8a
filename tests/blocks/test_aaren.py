"""The Aaren block has the size that the paper says; its layer's oracle stands beside the layer."""

from typing import Any

import pytest

from recurra.blocks import AarenBlock, AarenConfig


def test_as_many_parameters_as_the_paper_counts() -> None:
    """A Transformer's layer of 3,152,384, and one vector."""
    block = AarenBlock(AarenConfig(512, norm="layer"))
    assert sum(p.numel() for p in block.parameters()) == 3_152_896


@pytest.mark.parametrize(
    ("field", "wrong"),
    [
        ("width", {"width": 0}),
        ("heads", {"heads": 3}),
        ("mlp", {"mlp": -1.0}),
        ("norm", {"norm": "batch"}),
        ("dropout", {"dropout": 1.0}),
    ],
)
def test_wrong_configs(field: str, wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=field):
        AarenConfig(**{"width": 8, **wrong})
