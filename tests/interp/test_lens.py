"""Lenses: what they are before training, what training does to them and leaves alone, and their files."""

import math
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor
from torch.nn.functional import cross_entropy

from interop.peers import PEERS
from recurra import language_model
from recurra.blocks import BLOCKS
from recurra.interp import (
    LogitLens,
    Place,
    Recipe,
    StateLens,
    TunedLens,
    by_depth,
    distance,
    fit,
    load_lens,
    save_lens,
    states_at,
    subject,
    trajectory,
)
from recurra.interp import record as recorded
from recurra.interp.lens import Lens
from recurra.interp.states import sketched, vector
from recurra.state import MLSTMState, OuterState, RWKV4State, SLSTMBlockState, SoftmaxState
from tools import close, wake

VOCABULARY, DEPTH = 17, 3
RECURRENT = [name for name in BLOCKS if name != "transformer"]
QUICK = Recipe("adam", 0.05, 0.0, 16, 64, 16)


def build(name: str, width: int = 8) -> Any:
    """A model whose blocks all do something."""
    model = wake(language_model(name, VOCABULARY, width, DEPTH)).eval()
    with torch.no_grad():
        for p in model.parameters():
            p.add_(torch.randn_like(p), alpha=0.2)
    return model


def batch(step: int, rows: int = 4, time: int = 16) -> Tensor:
    draw = torch.Generator().manual_seed(step)
    return torch.randint(VOCABULARY, (rows, time), generator=draw)


def total(lens: Any) -> float:
    """Mean KL over its blocks on text that it was not trained on."""
    rows = by_depth(lens, [batch(1000, 8, 33)], 1.0)[:-1]
    return sum(row.kl for row in rows) / len(rows)


@pytest.mark.parametrize("name", ["seen", "translate"])
def test_a_kind_of_lens_without_one_of_its_methods_can_not_be_made(name: str) -> None:
    others = dict.fromkeys(Lens.__abstractmethods__ - {name})
    with pytest.raises(TypeError, match=rf"abstract.*\b{name}\b"):
        type("Half", (Lens,), others)(build("mingru"))


@pytest.mark.parametrize("name", BLOCKS)
def test_an_untrained_tuned_lens_is_the_logit_lens(name: str) -> None:
    model, tokens = build(name), batch(0)
    logit, tuned = LogitLens(model), TunedLens(model)
    with torch.no_grad(), recorded(model, [Place("block", 1)]) as seen:
        want, _ = model(tokens)
    values, logits, positions = tuned.seen(tokens)
    assert logits.equal(want)
    assert positions.tolist() == list(range(16))
    assert values[1].equal(seen[Place("block", 1)][0])
    for block, value in enumerate(values):
        assert tuned(value, block).equal(logit(value, block))
    close(model.head(values[1]), logit(values[1], 1))


@pytest.mark.parametrize("name", BLOCKS)
def test_training_lowers_the_divergence_and_leaves_the_model_alone(name: str) -> None:
    model = build(name)
    before, lens, nats = [p.clone() for p in model.parameters()], TunedLens(model), []
    first = total(lens)
    fit(lens, batch, QUICK, lambda step, value: nats.append(value))
    assert total(lens) < 0.9 * first
    assert len(nats) == QUICK.steps
    assert all(map(torch.equal, before, model.parameters()))
    assert all(p.grad is None for p in model.parameters())


@pytest.mark.parametrize("name", RECURRENT)
def test_a_state_tells_more_than_nothing(name: str) -> None:
    """Less than a guess that is the same everywhere, which is what the lens begins with."""
    model = build(name)
    lens = StateLens(model, every=8)
    lens.prepare(batch(0))
    first = total(lens)
    fit(lens, partial(batch, rows=16), Recipe("adam", 0.02, 0.0, 10, 256, 16))
    assert total(lens) < first


def test_the_paper_s_optimizer_learns_too() -> None:
    lens = TunedLens(build("mamba"))
    first = total(lens)
    fit(lens, batch, Recipe("sgd", 0.1, 1e-3, 40, 64, 16))
    assert total(lens) < first


def test_depths_are_what_they_say() -> None:
    """By the definitions, over batches of unequal sizes."""
    model = build("mingru")
    lens, batches = TunedLens(model), [batch(1), batch(2, 1, 9)]
    fit(lens, batch, Recipe("adam", 0.02, 0.0, 3, 64, 16))
    rows = by_depth(lens, batches, 2.5)
    assert [row.block for row in rows] == [0, 1, 2]
    with torch.no_grad():
        for block in (0, 1, 2):
            ce, kl, count = 0.0, 0.0, 0
            for tokens in batches:
                seen = lens.seen(tokens[:, :-1])
                logits = seen.logits if block == 2 else lens(seen.values[block], block)
                ce += cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten(), reduction="sum").item()
                p = torch.distributions.Categorical(logits=seen.logits)
                q = torch.distributions.Categorical(logits=logits)
                kl += torch.distributions.kl_divergence(p, q).sum().item()
                count += logits[..., 0].numel()
            bits = count * math.log(2) * 2.5
            assert rows[block].bits_per_byte == pytest.approx(ce / bits, rel=1e-4)
            assert rows[block].kl == pytest.approx(kl / bits, rel=1e-4, abs=1e-6)


@pytest.mark.parametrize("kind", [TunedLens, StateLens])
def test_trajectories(kind: Any) -> None:
    model, tokens = build("rwkv4"), batch(3)
    lens = kind(model)
    if kind is StateLens:
        lens.every = 3
    made = trajectory(lens, tokens, top=4)
    rows, places = len(lens.blocks) + 1, len(made.positions)
    assert made.top.shape == made.probability.shape == (rows, 4, places, 4)
    with torch.no_grad():
        log_p = model(tokens)[0][:, made.positions].log_softmax(-1)
    close(made.probability[-1], log_p.exp().topk(4).values)
    close(made.entropy[-1], torch.distributions.Categorical(logits=log_p).entropy())
    assert made.kl[-1].abs().max() == 0
    ends = int((made.positions == 15).sum())
    assert made.surprise.isnan().sum() == ends * 4 * rows
    close(made.surprise[-1, :, 0], -log_p[:, 0].gather(-1, tokens[:, made.positions[:1] + 1])[:, 0])


@pytest.mark.parametrize("name", ["mamba", "rwkv odd", "xlstm", "llama"])
def test_on_models_of_transformers(name: str) -> None:
    torch.manual_seed(1)
    model = PEERS[name].made()
    fit(tuned := TunedLens(model), batch, QUICK)
    assert total(tuned) < total(LogitLens(model))
    assert by_depth(tuned, [batch(1)], 1.0)[-1].kl == 0
    if name == "llama":
        with pytest.raises(ValueError, match="state must be of one size"):
            StateLens(model)
    else:
        fit(state := StateLens(model, every=4), batch, Recipe("adam", 0.02, 0.0, 3, 64, 16))
        assert len(by_depth(state, [batch(1)], 1.0)) == len(subject(model).blocks) + 1


@pytest.mark.parametrize("kind", [TunedLens, StateLens])
def test_files(kind: Any, tmp_path: Path) -> None:
    model, path = build("mlstm"), tmp_path / "lens.safetensors"
    lens = kind(model)
    fit(lens, batch, Recipe("adam", 0.02, 0.0, 2, 64, 16))
    save_lens(lens, path)
    again = load_lens(path, model)
    assert type(again) is kind
    values = lens.seen(batch(5)).values
    assert all(again(v, i).equal(lens(v, i)) for i, v in enumerate(values))
    with pytest.raises(ValueError, match=r"lens\.safetensors is the lens of another model: its unembedding"):
        load_lens(path, build("mlstm"))
    deeper = language_model("mlstm", VOCABULARY, 8, DEPTH + 1)
    deeper.head.load_state_dict(model.head.state_dict())
    with pytest.raises(ValueError, match=r"lens\.safetensors does not fit the model"):
        load_lens(path, deeper)
    save_file({"x": torch.zeros(1)}, path)
    with pytest.raises(ValueError, match=r"lens\.safetensors is not a lens of recurra"):
        load_lens(path, model)


def test_large_states_are_sketched() -> None:
    x, y = torch.randn(2, 3, 20000)
    y += x
    u, v = sketched(x, 8192), sketched(y, 8192)
    assert u.shape == (3, 8192)
    assert ((u * v).sum(-1) / (x * y).sum(-1) - 1).abs().max() < 0.1
    close(sketched(x + 2 * y, 8192), u + 2 * v)
    assert sketched(x, 20000) is x


def test_vectors_know_no_units() -> None:
    """e^max is taken out: the same averages, matrices and cells in other units are the same vector."""

    def average(up: float) -> SoftmaxState:
        draw = torch.Generator().manual_seed(0)
        top, n, d = (torch.rand(2, size, generator=draw) for size in (2, 6, 2))
        return SoftmaxState(top + up, n * math.exp(-up), d * math.exp(-up))

    def matrices(up: float) -> OuterState:
        draw = torch.Generator().manual_seed(0)
        c, n, top = (torch.rand(size, generator=draw) for size in ((2, 3, 4, 5), (2, 3, 4), (2, 3)))
        return OuterState(c * math.exp(-up), n * math.exp(-up), top + up)

    for state in (average, matrices):
        close(vector(state(1.5)), vector(state(0.0)), 200)
    empty = SoftmaxState(torch.zeros(1, 2), torch.zeros(1, 4), torch.zeros(1, 2))
    assert vector(empty).equal(torch.zeros(1, 6))
    states = [build(name)(batch(0))[1] for name in ("rwkv4", "mlstm", "slstm")]
    kinds = (RWKV4State, MLSTMState, SLSTMBlockState)
    for state, kind in zip(states, kinds, strict=True):
        assert type(state[0]) is kind
        assert vector(state[0]).isfinite().all()


@pytest.mark.parametrize("name", RECURRENT)
def test_distance(name: str) -> None:
    model = build(name)
    one, other = (states_at(model, batch(i), [15])[0] for i in (0, 1))
    assert distance(model, one, one).equal(torch.zeros(DEPTH, 4))
    apart = distance(model, one, other)
    assert apart.equal(distance(model, other, one))
    assert (apart > 0).all()
    assert (apart <= 2).all()


def test_errors_name_the_argument() -> None:
    model = build("mingru")
    with pytest.raises(ValueError, match="model must have at least two blocks"):
        TunedLens(language_model("mingru", VOCABULARY, 8, 1))
    with pytest.raises(ValueError, match=r"block must be one of \[0, 1\], got 2"):
        LogitLens(model)(torch.zeros(1, 8), 2)
    with pytest.raises(ValueError, match="LogitLens has nothing to train"):
        fit(LogitLens(model), batch)
    with pytest.raises(ValueError, match="every must be at least 1, got 0"):
        StateLens(model, every=0)
    with pytest.raises(ValueError, match="tokens must be at least every = 16 long"):
        StateLens(model).seen(batch(0, time=9))
    with pytest.raises(ValueError, match="state must be of one size"):
        StateLens(build("transformer"))
    with pytest.raises(ValueError, match="batches must hold at least one sequence"):
        by_depth(LogitLens(model), [], 1.0)
