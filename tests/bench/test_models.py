import importlib
import json

import pytest
import torch
from torch import nn

from recurra.bench import memory, models, products
from recurra.bench.contenders import Project
from recurra.bench.models import BOTH, FORWARD, STEP, Size
from recurra.blocks.table import BLOCKS
from recurra.cli import bench

PNG = b"\x89PNG\r\n\x1a\n"
PAST = {"gru": [(192, 64)], "lstm": [(256, 64)]}


@pytest.fixture
def tiny(monkeypatch):
    """Two rows of three steps, T from 2."""
    for name, value in (("BATCH", 2), ("TIME", 3), ("SHORTEST", 2)):
        monkeypatch.setattr(models, name, value)


@pytest.fixture
def made(monkeypatch):
    """Rows and columns of every product that is made with more than one row."""
    seen, house = [], importlib.import_module("recurra.ops.project")

    def listen(name):
        form = getattr(house, name)

        def run(x, weight, bias, added):
            if x.numel() > x.shape[-1]:
                seen.append(tuple(weight.shape))
            return form(x, weight, bias, added)

        monkeypatch.setattr(house, name, run)

    listen("OP")
    listen("_plain")
    return seen


@pytest.mark.parametrize("model", BLOCKS)
def test_the_products_are_those_that_a_block_makes(made, model):
    """And that of a past of its own, which a GRU and an LSTM make inside their loop."""
    block = Size(model, 64).build()
    block(torch.randn(2, 20, 64))
    assert sorted(size[:2] for size in products.matrices(block)) == sorted(made + PAST.get(model, []))


@pytest.mark.parametrize("model", BLOCKS)
def test_the_memories_are_those_whose_matrices_a_block_makes(monkeypatch, model):
    seen, house = [], importlib.import_module("recurra.ops.outer")
    check = house._check

    def listen(inputs, *rest):
        seen.append((*inputs.k.shape[-2:], inputs.v.shape[-1]))
        check(inputs, *rest)

    monkeypatch.setattr(house, "_check", listen)
    block = Size(model, 64).build()
    block(torch.randn(2, 20, 64))
    assert list(products.memories(block)) == seen


@pytest.mark.parametrize("model", BLOCKS)
def test_equal_parameters_within_a_few_percent(model):
    want = Size(models.EQUAL, 256).parameters
    assert models.alike(model, want).parameters == pytest.approx(want, rel=0.06)


def test_parameters_are_those_of_the_built_block():
    size = Size("mingru", 16)
    assert size.parameters == sum(p.numel() for p in size.build().parameters())
    assert models.alike("mingru", size.parameters) == size


@pytest.mark.parametrize("part", [FORWARD, BOTH, STEP])
@pytest.mark.parametrize("model", BLOCKS)
def test_every_call_of_every_block(tiny, model, part):
    for call in models.calls(Size(model, 8), part).values():
        call()


@pytest.mark.parametrize("linear", [nn.Linear, Project])
def test_products_forward_alone_leave_no_gradient(linear):
    run = products.Products(Size("mingru", 8).build(), 20, linear)
    assert not any(y.requires_grad for y in run.forward())
    assert all(leaf.grad is None for leaf in run.leaves)


def test_models_leave_csv_record_and_picture(tmp_path, monkeypatch, tiny, read, capsys):
    pytest.importorskip("matplotlib")
    monkeypatch.setattr(models, "peak", lambda size, time, threads: 1.5 * time)
    names = ["mingru", "transformer"]
    bench.models(",".join(names), width=8, longest=9, repeats=1, threads=1, out=tmp_path)
    rows = read(tmp_path / "models.csv")
    assert [(row["table"], row["part"], row["model"]) for row in rows] == [
        *(
            (table, part, name)
            for table in ("equal width", "equal parameters")
            for part in (FORWARD, BOTH, STEP)
            for name in names
        ),
        *(("length", BOTH, name) for name in names for _ in (2, 4, 8)),
    ]
    for row in rows:
        assert float(row["median_ms"]) > 0
        assert float(row["over_transformer"]) > 0
        assert not row["not_run"]
        assert bool(row["over_linear"]) == bool(row["over_project"]) == (row["table"] != "length")
        assert bool(row["us_per_token"]) == bool(row["peak_mib"]) == (row["table"] == "length")
    assert {row["width"] for row in rows[:6]} == {"8"}
    assert [row["time"] for row in rows[12:]] == ["2", "4", "8"] * 2
    assert json.loads((tmp_path / "models.json").read_text())["threads"] == 1
    assert (tmp_path / "models.png").read_bytes().startswith(PNG)
    assert "over_transformer" in capsys.readouterr().out


def test_without_the_reference_there_is_nothing_to_compare_with(tiny):
    rows = models.side_by_side("equal width", [Size("mingru", 8)], FORWARD, 1, lambda _: None)
    assert "over_transformer" not in rows[0]


def test_what_would_take_too_long_or_too_much_is_not_run(monkeypatch, tiny):
    """At T = 8 the last doubling, four times as much, would pass the bound; what stopped stays stopped."""

    def measured(time, sizes, repeats, threads, say):
        return {size.model: {"median_ms": 1.0, "peak_mib": 512.0 * (time / 2) ** 2} for size in sizes}

    monkeypatch.setattr(models, "at_length", measured)
    rows = models.lengths([Size("mingru", 8)], 16, 1, 1, lambda _: None)
    assert [row.get("peak_mib") for row in rows] == [512, 2048, 8192, None]
    assert rows[-1]["not_run"] == "peak_mib 32768 expected, at most 8192 allowed"
    assert models.refused(rows) == rows[-1]["not_run"]
    assert "median_ms" in models.refused([{"median_ms": models.BOUNDS["median_ms"], "peak_mib": None}])
    assert not models.refused([])


def test_an_unknown_block_is_named():
    with pytest.raises(ValueError, match=r"model must be of mingru, .*, got 'mingro'"):
        models.known(["mingru", "mingro"])


@pytest.mark.skipif(not memory.CLEAR.exists(), reason="peak memory is measured on Linux alone")
def test_peak_memory_is_measured_in_a_fresh_process():
    assert 0 < models.peak(Size("mingru", 64), 2048, 1) < 128
