import json
from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from recurra.bench import memory, products, train
from recurra.bench.language import TORCH, Step, build, noise
from recurra.bench.products import BATCHED, LINEAR, MAPPED, PROJECT
from recurra.bench.timing import Timing
from recurra.bench.train import MIXED, STEP
from recurra.blocks.table import BLOCKS
from recurra.cli import bench
from recurra.ops import native

PNG = b"\x89PNG\r\n\x1a\n"


@pytest.fixture
def plan():
    """Options of a tiny run."""
    return lambda model: train.plan(model, width=8, depth=2, batch=2, context=4)


@pytest.mark.parametrize("model", train.MODELS)
def test_a_step_trains_every_parameter(plan, model):
    step = Step(plan(model), noise())
    before = [p.clone() for p in step.model.parameters()]
    step()
    assert all(not torch.equal(p, old) for p, old in zip(step.model.parameters(), before, strict=True))


@pytest.mark.parametrize("name", TORCH)
def test_torchs_layer_stands_in_the_plan_of_ours(plan, name):
    """With the same weights the whole model says the same."""
    ours, theirs = build(plan(TORCH[name][0])), build(plan(name))
    weights = {key.replace("rnn.", "").replace("_l0", ""): p for key, p in theirs.state_dict().items()}
    ours.load_state_dict(weights)
    tokens = torch.randint(256, (2, 5))
    torch.testing.assert_close(ours(tokens)[0], theirs(tokens)[0])


@pytest.mark.parametrize("model", [name for name in train.MODELS if name in BLOCKS])
def test_the_products_are_those_of_the_model(plan, model):
    """All parameters but the embedding, the taps of the convolution and the weights of the norms."""
    made, config = build(plan(model)), plan(model)
    counted = sum(rows * columns + rows * bias for rows, columns, bias in products.matrices(made))
    others = [made.embed, *(m for b in made.blocks for m in (b.conv, b.norm, b.mlp_norm)), made.head.norm]
    total = sum(p.numel() for p in made.parameters())
    assert counted == total - sum(p.numel() for m in others for p in m.parameters())
    assert (256, config.width, False) in list(products.matrices(made))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("linear", [nn.Linear, train.Project])
def test_products_make_every_gradient_anew(plan, dtype, linear):
    run = products.Products(build(plan("mingru")), 6, linear, dtype)
    run()
    first = [leaf.grad for leaf in run.leaves]
    run()
    for leaf, old in zip(run.leaves, first, strict=True):
        assert leaf.grad.dtype == leaf.dtype
        assert torch.equal(leaf.grad, old)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_products_of_a_recurrence_are_six_of_keys_times_values(plan, dtype):
    """Two forward, four backward, a head and step; as linear maps, of which each makes three, no more."""
    model = build(plan("xlstm_large"))
    sizes, tokens = list(products.memories(model)), 2 * native.SEGMENT
    wanted = sum(6 * tokens * heads * keys * values for heads, keys, values in sizes)
    run = products.Batched(model, tokens, dtype)
    with FlopCounterMode(display=False) as counted:
        grads = run()
    assert counted.get_total_flops() == 2 * wanted
    assert [g.shape for g in grads] == [leaf.shape for leaf in run.leaves]
    maps = products.matrices(products.as_maps(model))
    assert sum(3 * tokens * sizes[0][0] * rows * columns for rows, columns, _ in maps) == wanted


def test_a_recurrence_that_multiplies_matrices_has_a_floor_of_its_own(plan):
    places = {part.part for part in train.contenders([plan("mlstm")])}
    assert places == {STEP, LINEAR, PROJECT, BATCHED, MAPPED}
    timings = {train.Part(plan("mlstm"), part): Timing(1, 2.0, 2.0, 2.0, 2.0) for part in places}
    found = train.ratios(train.Part(plan("mlstm"), STEP), timings)
    assert found == {name: 1 / len(parts) for name, parts in train.FLOORS.items()} | {"over_fp32": 1}


def test_train_leaves_csv_record_and_picture(tmp_path, monkeypatch, read, capsys):
    pytest.importorskip("matplotlib")
    monkeypatch.setattr(train, "peak", lambda config, threads: 1.5)
    monkeypatch.setattr(train, "CONTEXTS", (4, 8))
    monkeypatch.setattr(train, "TOKENS", 8)
    bench.train("mingru,nn.GRU", width=8, depth=1, batch=2, context=4, repeats=1, threads=1, out=tmp_path)
    rows = read(tmp_path / "train.csv")
    steps, contexts = [row for row in rows if not row["over_shortest"]], rows[-2:]
    assert [(row["model"], row["precision"], row["part"]) for row in steps] == [
        *(("mingru", p, part) for p in ("32-true", MIXED) for part in (STEP, LINEAR, PROJECT)),
        *(("nn.GRU", p, STEP) for p in ("32-true", MIXED)),
    ]
    for row in steps:
        assert float(row["median_ms"]) > 0
        assert (row["part"] == STEP) == bool(row["peak_mib"]) == bool(row["tokens_per_s"])
        assert (
            bool(row["over_linear"])
            == bool(row["over_project"])
            == (row["part"] == STEP and row["model"] == "mingru")
        )
        assert row["over_all_linear"] == row["over_all_project"] == ""
    assert float(steps[0]["over_fp32"]) == 1
    assert [(row["context"], row["batch"]) for row in contexts] == [("4", "2"), ("8", "1")]
    assert float(contexts[0]["over_shortest"]) == 1
    assert json.loads((tmp_path / "train.json").read_text())["threads"] == 1
    assert (tmp_path / "train.png").read_bytes().startswith(PNG)
    assert "peak_mib" in capsys.readouterr().out


@pytest.mark.parametrize("precision", ["32-true", MIXED])
def test_the_picture_of_torchs_layers_alone_in_one_precision(tmp_path, monkeypatch, read, precision):
    pytest.importorskip("matplotlib")
    monkeypatch.setattr(train, "peak", lambda config, threads: None)
    of = {"width": 8, "depth": 1, "batch": 1, "context": 4, "precision": precision}
    bench.train("nn.LSTM", **of, repeats=1, threads=1, out=tmp_path)
    assert [row["precision"] for row in read(tmp_path / "train.csv")] == [precision]
    assert (tmp_path / "train.png").read_bytes().startswith(PNG)


@pytest.mark.parametrize("wrong", [{"model": "gru2"}, {"precision": "bf16"}], ids=str)
def test_a_plan_names_the_option_that_is_wrong(wrong):
    ((name, given),) = wrong.items()
    with pytest.raises(ValueError, match=f"{name} must be of .*{given}"):
        train.plan(**{"model": "mingru", "width": 8, "depth": 1, "batch": 1, "context": 4} | wrong)


@pytest.mark.skipif(not memory.CLEAR.exists(), reason="peak memory is measured on Linux alone")
def test_peak_memory_holds_weights_moments_and_gradients():
    config = replace(train.plan("mingru", width=1024, depth=1, batch=1, context=128), mlp=0.0, expansion=0.5)
    weights = sum(4 * p.numel() for p in build(config).parameters()) / 2**20
    assert 4 * weights < train.peak(config, 1) < 8 * weights + 16
