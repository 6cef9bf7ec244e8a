import math

import pytest
import torch
from torch import Generator

from recurra.bench import swap, swap_tasks
from recurra.bench.swap import DEPTHS, REPLACES, Net, matched, size
from recurra.bench.swap_tasks import TASKS, read_ts
from recurra.cli import bench

TS = """#comment
@problemName JapaneseVowels
@data
1.5,2.5,3.5:0.1,0.2,0.3:{label}
4.5,-1.5:0.4,0.5:{label}
"""


@pytest.fixture
def vowels(tmp_path, monkeypatch):
    """A folder of two tiny .ts files with 12 channels and rows of 3 and 2 steps."""
    (tmp_path / "tsc").mkdir()
    for part, label in (("TRAIN", 1), ("TEST", 9)):
        lines = [":".join(["1.0,2.0,3.0"] * 12), ":".join(["4.0,5.0"] * 12)]
        text = "@data\n" + "".join(f"{line}:{label}\n" for line in lines)
        (tmp_path / "tsc" / f"JapaneseVowels_{part}.ts").write_text(text)
    monkeypatch.setenv("RECURRA_DATA", str(tmp_path))


@pytest.mark.parametrize("task", ["adding", "bytes"])
@pytest.mark.parametrize("model", list(DEPTHS))
def test_models_have_equal_parameters(model, task):
    task = TASKS[task]()
    budget = size(task, REPLACES[model], 1, task.hidden)
    for layers in DEPTHS[model]:
        hidden = matched(task, model, layers)
        net = Net(task, model, layers, hidden)
        assert sum(p.numel() for p in net.parameters()) == size(task, model, layers, hidden)
        assert abs(size(task, model, layers, hidden) / budget - 1) <= 0.02


def test_a_budget_that_cannot_be_met_is_refused():
    task = TASKS["adding"]()._replace(hidden=2)
    with pytest.raises(ValueError, match="within 2 %"):
        matched(task, "MinGRU", 3)


def test_the_adding_problem_adds():
    batch = TASKS["adding"]().draw(Generator().manual_seed(0))
    value, marker = batch.x.unbind(-1)
    assert marker.sum(1).eq(2).all()
    assert torch.allclose((value * marker).sum(1), batch.target)


def test_bytes_are_shifted_by_one_and_held_out_apart():
    batch = TASKS["bytes"]().draw(Generator().manual_seed(0))
    assert batch.x.shape == batch.target.shape == (16, 256)
    assert batch.x[:, 1:].equal(batch.target[:, :-1])


def test_digits_are_read_pixel_by_pixel():
    pytest.importorskip("sklearn")
    task = TASKS["digits"]()
    assert task.draw(Generator().manual_seed(0)).x.shape == (32, 64, 1)
    assert len(task.test[0].x) == 360


def test_ts_files_are_parsed(tmp_path):
    path = tmp_path / "a.ts"
    path.write_text(TS.format(label="b"))
    series, labels = read_ts(path)
    assert [s.shape for s in series] == [(3, 2), (2, 2)]
    assert series[1].tolist() == [[4.5, pytest.approx(0.4)], [-1.5, 0.5]]
    assert labels == ["b", "b"]
    path.write_text("1,2:a\n")
    with pytest.raises(ValueError, match=r"a\.ts .*@data"):
        read_ts(path)


@pytest.mark.parametrize("model", list(DEPTHS))
@pytest.mark.usefixtures("vowels")
def test_padding_is_not_read(model):
    task = TASKS["vowels"]()
    net = Net(task, model, 1, 8)
    batch = task.test[0]
    alone = batch._replace(x=batch.x[1:, :2], lengths=batch.lengths[1:], target=batch.target[1:])
    assert batch.lengths.tolist() == [3, 2]
    torch.testing.assert_close(net(batch)[1:], net(alone))


def test_vowels_without_their_files_are_left_out_or_refused(monkeypatch, tmp_path):
    monkeypatch.setenv("RECURRA_DATA", str(tmp_path))
    monkeypatch.setattr(swap_tasks, "find_spec", lambda name: None)
    assert swap_tasks.default_tasks() == ["adding", "digits", "bytes"]
    with pytest.raises(ValueError, match="RECURRA_DATA"):
        TASKS["vowels"]()


def test_measures():
    y = torch.tensor([[[2.0, 0.0], [0.0, 2.0]]])
    assert swap_tasks.accuracy(y, torch.tensor([[0, 0]])) == 50
    assert math.isclose(swap_tasks.bits(0 * y, torch.tensor([[0, 1]])), 1, rel_tol=1e-6)


@pytest.mark.usefixtures("vowels")
def test_swap_resumes(tmp_path, monkeypatch, read):
    bench.swap(tasks="vowels", seeds=1, steps=2, threads=1, out=tmp_path)
    first = read(tmp_path / "swap.csv")
    assert len(first) == sum(map(len, DEPTHS.values()))
    assert {row["steps"] for row in first} == {"2"}

    made = []
    monkeypatch.setattr(swap, "train", lambda *of: made.append(of) or 1.0)
    bench.swap(tasks="vowels", seeds=2, steps=2, threads=1, out=tmp_path)
    rows = read(tmp_path / "swap.csv")
    assert rows[: len(first)] == first
    assert len(made) == len(rows) - len(first) == len(first)

    monkeypatch.setattr(swap, "processor", lambda: "another machine")
    bench.swap(tasks="vowels", seeds=1, steps=2, threads=1, out=tmp_path)
    assert len(read(tmp_path / "swap.csv")) == len(rows) + len(first)


@pytest.mark.usefixtures("vowels")
def test_swap_tabulates_the_seeds(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(swap, "train", lambda *of: 1.0)
    bench.swap(tasks="vowels", seeds=2, steps=2, threads=1, out=tmp_path)
    table = (tmp_path / "swap.md").read_text()
    assert table in capsys.readouterr().out
    lines = [[cell.strip() for cell in line.strip("|\n").split("|")] for line in table.splitlines()]
    assert [line[1] for line in lines[2:]] == [model for model, depths in DEPTHS.items() for _ in depths]
    assert all("±" in line[5] for line in lines[2:])
    assert len({len(line) for line in lines}) == 1


@pytest.mark.usefixtures("vowels")
def test_the_same_seed_gives_the_same_run(tmp_path):
    task = TASKS["vowels"]()
    one = swap.Run("vowels", "MinGRU", 2, 0, 3)
    assert swap.finish(one, task)["quality"] == swap.finish(one, task)["quality"]
