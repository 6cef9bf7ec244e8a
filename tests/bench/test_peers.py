import pytest
import torch

from recurra.bench import peers
from recurra.bench.products import LINEAR, PROJECT
from recurra.cli import bench
from tools import close

# They have no matrix products, or none that every token takes apart from the others.
BARE = (peers.S4D, peers.CELL)


@pytest.fixture
def tiny(monkeypatch):
    """Two rows of four steps."""
    short = {name: rival._replace(batch=2, time=4) for name, rival in peers.RIVALS.items()}
    monkeypatch.setattr(peers, "RIVALS", short)


@pytest.mark.parametrize("rival", peers.RIVALS)
def test_every_run_makes_a_gradient_of_its_input(tiny, rival):
    runs = peers.runs(rival, 16)
    assert (LINEAR in runs) == (PROJECT in runs) == (rival not in BARE)
    for run in runs.values():
        run.forward()
        assert all(leaf.grad is None for leaf in run.leaves)
        run()
        assert all(leaf.grad is not None for leaf in run.leaves)
        for leaf in run.leaves:
            leaf.grad = None


def test_the_convolution_is_the_layer():
    layer, x = peers.RIVALS[peers.S4D].build(8), torch.randn(2, 50, 8)
    close(peers.Convolution(layer)(x), layer(x)[0])


def test_peers_leave_csv_and_record(tiny, tmp_path, monkeypatch, read):
    monkeypatch.setattr(bench.model_bench, "run", lambda *_: iter([[], [], []]))
    monkeypatch.setattr(bench, "leave", lambda *_: None)
    monkeypatch.setattr(peers, "find_spec", lambda name: None if name == "transformers" else name)
    bench.models("mingru", width=16, peers=True, repeats=1, threads=1, out=tmp_path)
    rows = {(row["model"], row["part"]): row for row in read(tmp_path / "peers.csv")}
    for name, peer in peers.PEERS.items():
        for part in (peers.FORWARD, peers.BOTH):
            row = rows[name, part]
            assert row["table"] == peer.rival
            if peer.package == "transformers":
                assert row["not_run"] == "transformers is not installed"
            else:
                assert float(row["over_recurra"]) > 0
    for name in peers.RIVALS:
        assert bool(rows[name, peers.BOTH]["over_linear"]) == (name not in BARE)
    assert (tmp_path / "peers.json").exists()
