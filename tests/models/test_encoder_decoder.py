"""Sequence to sequence over the table of blocks: rows alone, step by step, both sides seen, the loss."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from ops.recurrences import NATIVE
from recurra.blocks.table import BLOCKS
from recurra.models import CharVocabulary, SequenceModel, SequenceToSequence, classic, load
from recurra.models.classic import CLASSIC
from recurra.models.encoder import turned
from recurra.models.encoder_decoder import encoder_decoder
from recurra.models.pairs import Pair
from recurra.models.stepper import PlainStepper, RecordedStepper, stepper
from recurra.state import select
from tools import close, same_state, wake

BATCH, SOURCE, TARGET, WIDTH = 3, 6, 5, 8
SIZES = {"vocabulary": 11, "width": WIDTH, "depth": 2}
# Encoder, decoder and cross-attention; what passes no state needs that.
KINDS: dict[str, tuple[str, str, bool]] = {
    **{name: (name, name, True) for name in BLOCKS},
    **{f"{name} state alone": (name, name, False) for name in BLOCKS if name != "transformer"},
    "recurrent encoder": ("mingru", "transformer", True),
    "recurrent decoder": ("transformer", "mingru", True),
}
every = pytest.mark.parametrize("kind", [*KINDS, CLASSIC])


def _model(kind: str) -> Any:
    if kind == CLASSIC:
        return wake(classic(**SIZES))
    encoder, decoder, cross = KINDS[kind]
    return wake(encoder_decoder(encoder, decoder, cross=cross, **SIZES))


def _pair() -> Pair:
    lengths = torch.tensor([SOURCE, 1, 4])
    return Pair(torch.randint(11, (BATCH, SOURCE)), lengths, torch.randint(11, (BATCH, TARGET)))


@every
def test_rows_do_not_see_each_other_nor_their_padding(kind: str) -> None:
    model, pair = _model(kind), _pair()
    logits, _ = model(pair)
    for row, length in enumerate(pair.lengths.tolist()):
        one = slice(row, row + 1)
        alone, _ = model(Pair(pair.source[one, :length], pair.lengths[one], pair.target[one]))
        close(logits[one], alone)


@every
def test_step_by_step(kind: str) -> None:
    model, pair = _model(kind), _pair()
    want, _ = model(pair)
    state, rows = model.encode(pair.source, pair.lengths), []
    for token in pair.target.unbind(1):
        logits, state = model.step(token, state)
        rows.append(logits)
    close(torch.stack(rows, 1), want)
    first, middle = model(pair._replace(target=pair.target[:, :2]))
    rest, _ = model(pair._replace(target=pair.target[:, 2:]), middle)
    close(torch.cat([first, rest], 1), want)


@NATIVE
@every
@pytest.mark.parametrize("beam", [1, 3])
@torch.no_grad()
def test_a_recorded_step(kind: str, beam: int) -> None:
    """Beams of one source read the same memory, and go on from each other's states."""
    model, pair = _model(kind).eval(), _pair()
    _, state = model(pair)
    state = state._replace(blocks=select(state.blocks, torch.arange(BATCH).repeat_interleave(beam)))
    step, plain = stepper(model, state), PlainStepper(model, state)
    assert isinstance(step, PlainStepper if kind == CLASSIC else RecordedStepper)
    parents = torch.arange(BATCH * beam).view(BATCH, beam)[:, [0, *range(beam - 1)]].flatten()
    for token in torch.randint(11, (4, BATCH * beam)):
        close(step(token), plain(token))
        for each in (step, plain):
            each.select(parents)
    same_state(step.state, plain.state)


@every
def test_the_first_word_depends_on_every_source_token(kind: str) -> None:
    model, pair = _model(kind), _pair()
    model(pair._replace(target=pair.target[:, :1]))[0][0].norm().backward()
    seen = model.source.weight.grad.norm(dim=1) > 0
    assert seen[pair.source[0]].all()


def test_every_position_of_the_memory_sees_both_sides() -> None:
    for name in BLOCKS:
        model = _model(name)
        x = torch.randn(1, SOURCE, WIDTH, requires_grad=True)
        memory, _ = model.encoder(x, torch.tensor([SOURCE]))
        for position in range(SOURCE):
            (dx,) = torch.autograd.grad(memory[0, position].norm(), x, retain_graph=True)
            assert (dx.norm(dim=-1) > 0).all(), (name, position)


def test_turned() -> None:
    lengths = torch.tensor([4, 0, 2])
    x = torch.arange(12).view(3, 4)
    want = [[3, 2, 1, 0], [4, 5, 6, 7], [9, 8, 10, 11]]
    assert turned(x, lengths).tolist() == want
    assert turned(x[..., None].expand(3, 4, 2), lengths)[..., 1].tolist() == want


@pytest.mark.parametrize("kind", ["mingru", CLASSIC])
def test_the_loss_is_that_of_the_logits(kind: str) -> None:
    model, pair = _model(kind), _pair()
    targets = torch.randint(11, (BATCH, TARGET))
    targets[1, 2:] = -100
    loss, state = model.loss(pair, targets)
    close(loss, cross_entropy(model(pair)[0].flatten(0, 1), targets.flatten()))
    assert state is None
    grads = torch.autograd.grad(loss, list(model.parameters()))
    assert all(g.isfinite().all() for g in grads)
    assert sum(bool(g.any()) for g in grads) == len(grads)


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("kind", ["blocks", CLASSIC])
def test_a_saved_model_is_the_same(kind: str, tied: bool, tmp_path: Path) -> None:
    pair, made = _pair(), classic(dropout=0.1, tied=tied, **SIZES)
    if kind == "blocks":
        made = encoder_decoder(
            ["lstm", "transformer"], "mingru", tied=tied, options={"dropout": 0.1}, **SIZES
        )
    model = wake(made).eval()
    model.save_pretrained(tmp_path, vocabulary=CharVocabulary("abc"))
    again = load(tmp_path)
    assert isinstance(again, SequenceToSequence)
    assert again.config == model.config
    assert torch.equal(again(pair)[0], model(pair)[0])
    assert again.vocabulary is not None
    assert again.vocabulary.size == 3
    assert (again.source is None) == tied
    with pytest.raises(ValueError, match="unknown key"):
        SequenceModel.from_pretrained(tmp_path)


@pytest.mark.parametrize("make", [encoder_decoder, classic])
def test_a_tied_table_is_read_at_size_one_and_an_older_file_as_it_was_written(make: Any) -> None:
    model = make(vocabulary=500, width=64, depth=1, tied=True)
    tokens, config = torch.arange(500), model.config
    assert 0.95 < float(model.represented(tokens[None]).detach().square().mean()) < 1.05
    del config["scale"]
    older = type(model).from_config(config)
    older.load_state_dict(model.state_dict())
    assert torch.equal(older.embed(tokens), model.embed.weight)
    assert older.config == config


@pytest.mark.parametrize("name", ["config", "encoded", "from_config", "hidden", "looks", "step"])
def test_a_kind_of_model_without_one_of_its_methods_can_not_be_made(name: str) -> None:
    others = dict.fromkeys(SequenceToSequence.__abstractmethods__ - {name})
    with pytest.raises(TypeError, match=rf"abstract.*\b{name}\b"):
        type("Half", (SequenceToSequence,), others)()


def _fails(match: str, **options: Any) -> None:
    with pytest.raises(ValueError, match=match):
        encoder_decoder(**{**SIZES, **options})


def test_what_can_not_be_is_named() -> None:
    _fails("knows nothing of the source", encoder="gru", decoder="mingru", cross=False)
    _fails("knows nothing of the source", encoder="transformer", decoder="transformer", cross=False)
    _fails("blocks must be of", encoder="gro")
    for options, name in (({"width": 7}, "width must be even"), ({"dropout": 1.0}, "dropout must lie")):
        with pytest.raises(ValueError, match=name):
            classic(**{**SIZES, **options})
    model, pair = _model("mingru"), _pair()
    with pytest.raises(ValueError, match=r"source must be \[batch, at least 1\]"):
        model(pair._replace(source=pair.source[:, :0]))
    with pytest.raises(ValueError, match=r"lengths must be \[3\]"):
        model(pair._replace(lengths=pair.lengths[:2]))
    with pytest.raises(ValueError, match="targets must be like the target"):
        model.loss(pair, pair.target[:, 1:])
    block: Any = _model("transformer").encoder.blocks[0]
    x = Tensor(torch.randn(BATCH, WIDTH))
    with pytest.raises(ValueError, match="has no step"):
        block.step(x)
