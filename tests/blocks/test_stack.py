"""`recurra.Stack`: the blocks of the table in the place of nn.GRU."""

from typing import Any

import pytest
import torch
from torch.nn.utils.rnn import pack_sequence

from recurra import Stack, language_model
from recurra.blocks.stack import turn
from recurra.blocks.table import BLOCKS, describe
from tools import close, masks, same_state

BATCH, TIME, WIDTH = 3, 7, 6


@pytest.mark.parametrize("name", BLOCKS)
def test_the_layouts_of_torch(name: str) -> None:
    stack, x = Stack(name, WIDTH, 2), torch.randn(TIME, BATCH, WIDTH)
    reset, lengths = masks(BATCH, TIME, 0)
    begin = stack(torch.randn(2, BATCH, WIDTH))[1]
    want, end = stack(x, begin, lengths=lengths, reset=reset.t())
    stack.batch_first = True
    got, same = stack(x.transpose(0, 1), begin, lengths=lengths, reset=reset)
    close(got.transpose(0, 1), want)
    same_state(same, end)
    close(stack(x[:, 0])[0], stack(x[:, :1].transpose(0, 1))[0][0])


def test_chunks_and_steps() -> None:
    stack, x = Stack(["mingru", "lstm"], WIDTH, 3), torch.randn(TIME, BATCH, WIDTH)
    want, end = stack(x)
    first, middle = stack(x[:4])
    rest, last = stack(x[4:], middle)
    close(torch.cat([first, rest]), want)
    same_state(last, end)
    now: Any = None
    for x_t, y_t in zip(x, want, strict=True):
        y, now = stack.step(x_t, now)
        close(y, y_t)
    same_state(now, end)


def _names(model: Any) -> list[str]:
    return [describe(block)["block"] for block in model.blocks]


def test_patterns() -> None:
    seven = ["mlstm"] * 7 + ["slstm"]
    assert turn("xlstm") == turn(["mlstm", "slstm"], "7:1") == seven
    assert _names(language_model("xlstm", 5, 8, 16)) == seven * 2
    assert _names(language_model("xlstm", 5, 8, pattern="1:1")) == ["mlstm", "slstm"] * 3
    assert _names(Stack("xlstm", 8, 2, pattern="1:0")) == ["mlstm"] * 2
    assert _names(Stack(["mamba", "transformer"], 8, pattern="3:1")) == (["mamba"] * 3 + ["transformer"]) * 2
    assert _names(Stack(["mamba", "transformer"], 8, 3)) == ["mamba", "transformer", "mamba"]
    for pattern in ("7", "7:", "7:-1", "0:0", "7:1:1", ""):
        with pytest.raises(ValueError, match="pattern must be one number for each of mlstm, slstm, got"):
            Stack(["mlstm", "slstm"], 8, pattern=pattern)
    with pytest.raises(ValueError, match="depth must be a multiple of 8, one turn of the blocks, got 6"):
        Stack("xlstm", 8, 6)


def test_errors() -> None:
    stack, x = Stack("mingru", WIDTH, 2), torch.randn(TIME, BATCH, WIDTH)
    with pytest.raises(ValueError, match=r"x must be \[time, batch, 6\] or \[time, 6\], got \[7, 3, 5\]"):
        stack(x[..., :5])
    with pytest.raises(ValueError, match=r"reset must be \[7, 3\], as x, got \[3, 7\]"):
        stack(x, reset=torch.zeros(BATCH, TIME, dtype=torch.bool))
    with pytest.raises(ValueError, match="state must be of 2 blocks, got 1"):
        stack(x, stack(x)[1][:1])
    with pytest.raises(TypeError, match="x must be a tensor, got PackedSequence"):
        stack(pack_sequence([x[:, 0]]))
    with pytest.raises(ValueError, match=r"blocks must be of .*, got 'gruu'"):
        Stack("gruu", WIDTH)
    with pytest.raises(ValueError, match="index follows from where a block stands"):
        Stack("rwkv4", WIDTH, options={"index": 0})
