"""A model is its blocks: one sequence, in chunks, step by step; its loss; its config."""

import copy
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

import recurra
from recurra import state
from recurra.blocks.table import BLOCKS
from recurra.models import SequenceModel
from tools import close, masks, same_state, wake

BATCH, TIME, VOCABULARY, WIDTH = 3, 9, 13, 8
KINDS: dict[str, dict[str, Any]] = {
    **{name: {"blocks": name, "depth": 2} for name in BLOCKS},
    "hybrid": {"blocks": list(BLOCKS)},
    "tied": {"tied": True, "depth": 1},
    "layer norm": {"depth": 1, "options": {"norm": "layer"}},
}
every = pytest.mark.parametrize("kind", list(KINDS))


def _model(kind: str) -> SequenceModel:
    return wake(recurra.language_model(vocabulary=VOCABULARY, width=WIDTH, **KINDS[kind]))


def _tokens(time: int = TIME) -> Tensor:
    return torch.randint(VOCABULARY, (BATCH, time))


@every
def test_chunks_and_steps(kind: str) -> None:
    model, tokens = _model(kind), _tokens()
    want, _ = model(tokens)
    for cut in (0, 1, 4, TIME):
        first, middle = model(tokens[:, :cut])
        rest, _ = model(tokens[:, cut:], middle)
        close(torch.cat([first, rest], 1), want)
    now, rows = None, []
    for token in tokens.unbind(1):
        logits, now = model.step(token, now)
        rows.append(logits)
    close(torch.stack(rows, 1), want)


@every
def test_masks(kind: str) -> None:
    model, tokens = _model(kind), _tokens()
    reset, lengths = masks(BATCH, TIME, seed=1)
    logits, end = model(tokens, None, reset, lengths)
    for row, length in enumerate(lengths.tolist()):
        one = slice(row, row + 1)
        alone, last = model(tokens[one, :length], None, reset[one, :length])
        close(logits[one, :length], alone)
        assert not logits[row, length:].any()
        for mine, other in zip(end, last, strict=True):
            same_state(state.select(mine, one), other)


@every
@pytest.mark.parametrize("checkpointing", [False, True], ids=["stored", "computed twice"])
def test_loss(kind: str, checkpointing: bool) -> None:
    model, tokens, targets = _model(kind), _tokens(), _tokens()
    targets[0, 2] = -100
    lengths = torch.tensor([TIME, 4, 0])
    logits, _ = model(tokens, lengths=lengths)
    counted = targets.masked_fill(torch.arange(TIME) >= lengths[:, None], -100)
    smoothing = 0.1 if checkpointing else 0.0
    want = cross_entropy(logits.flatten(0, 1), counted.flatten(), label_smoothing=smoothing)
    grads = torch.autograd.grad(want, list(model.parameters()))
    model.checkpointing = checkpointing
    loss, _ = model.loss(tokens, targets, lengths=lengths, smoothing=smoothing)
    close(loss, want)
    for p, mine, other in zip(
        model.parameters(), torch.autograd.grad(loss, list(model.parameters())), grads, strict=True
    ):
        assert other.any(), p.shape
        close(mine, other)


@every
def test_truncated_backpropagation(kind: str) -> None:
    """A carried state goes on; cut from its graph, the gradient stays within the window."""
    model, tokens = _model(kind), _tokens()
    _, end = model.loss(tokens, tokens)
    loss, _ = model.loss(tokens, tokens, state.detach(end))
    loss.backward()
    fresh, _ = model.loss(tokens, tokens)
    assert loss != fresh


@every
def test_config_builds_the_model(kind: str) -> None:
    model, tokens = _model(kind), _tokens()
    again = SequenceModel.from_config(model.config)
    assert again.config == model.config
    again.load_state_dict(model.state_dict())
    assert again(tokens)[0].equal(model(tokens)[0])


def test_a_head_with_another_norm_and_capped_logits() -> None:
    """Keys that a config without them does not have."""
    model, tokens = _model("mingru"), _tokens()
    assert not {"eps", "cap"} & model.config.keys()
    other = SequenceModel.from_config({**model.config, "eps": 0.5, "cap": 2.0})
    assert other.config == {**model.config, "eps": 0.5, "cap": 2.0}
    other.load_state_dict(model.state_dict())
    x, _ = model.hidden(tokens)
    normed = x / (x.square().mean(-1, keepdim=True) + 0.5).sqrt() * model.head.norm.weight
    close(other(tokens)[0], 2 * torch.tanh(normed @ model.head.weight.t() / 2))
    close(other.loss(tokens, tokens)[0], cross_entropy(other(tokens)[0].flatten(0, 1), tokens.flatten()))
    with pytest.raises(ValueError, match="cap must not be negative"):
        SequenceModel.from_config({**model.config, "cap": -1.0})


def test_nothing_counts() -> None:
    model, tokens = _model("mingru"), _tokens()
    loss, _ = model.loss(tokens, torch.full_like(tokens, -100))
    assert loss == 0


def test_tied_weights_stay_tied() -> None:
    model = _model("tied")
    assert "head.weight" not in model.state_dict()
    for other in (model.double(), SequenceModel.from_config(model.config).to("meta")):
        assert other.head.tied
    twin, tokens = copy.deepcopy(model), _tokens()
    with torch.no_grad():
        twin.embed.weight.mul_(2)
    assert not twin(tokens)[0].equal(model(tokens)[0])
    assert twin.head._tied[0] is twin.embed


def test_depth_and_names() -> None:
    def names(**how: Any) -> list[str]:
        model = recurra.language_model(**{"width": 4, **how})
        return [block["block"] for block in model.config["blocks"]]

    assert names() == ["mingru"] * 6
    assert names(blocks=["mingru", "minlstm"]) == ["mingru", "minlstm"]
    assert names(blocks=["mingru", "minlstm"], depth=3) == ["mingru", "minlstm", "mingru"]
    for how, said in (
        ({"blocks": "none"}, "blocks must be of mingru, minlstm"),
        ({"blocks": []}, "depth must be at least"),
        (
            {"blocks": ["mingru", "minlstm"], "depth": 1},
            "the number of blocks named, 2",
        ),
        ({"options": {"states": 3}}, "unknown key 'states'"),
        ({"options": {"conv": "4"}}, "key 'conv' must be of type int"),
        ({"vocabulary": 0}, "vocabulary and width must be at least 1"),
        ({"width": 0}, "width must be at least 1"),
    ):
        with pytest.raises(ValueError, match=said):
            names(**how)


def test_errors_name_the_argument() -> None:
    model, tokens = _model("mingru"), _tokens()
    with pytest.raises(ValueError, match=r"tokens must be \[batch, time\], got \[9\]"):
        model(tokens[0])
    with pytest.raises(ValueError, match=r"token must be \[batch\], got \[3, 9\]"):
        model.step(tokens)
    with pytest.raises(ValueError, match=r"targets must be like tokens, \[3, 9\], got \[3, 8\]"):
        model.loss(tokens, tokens[:, 1:])
    with pytest.raises(ValueError, match="state must be of 2 blocks, got 1"):
        model(tokens, model(tokens)[1][:1])
    with pytest.raises(IndexError):
        model(tokens + VOCABULARY)


# Dynamo itself warns so while it traces an autograd.Function.
@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")
def test_compiles_whole() -> None:
    torch._dynamo.reset()
    model, tokens = _model("hybrid"), _tokens()
    want, _ = model.loss(tokens, tokens)
    got, _ = torch.compile(model.loss, backend="aot_eager", fullgraph=True)(tokens, tokens)
    close(got, want)
    got.backward()
    assert all(p.grad is not None for p in model.parameters())
