import json

import pytest

from recurra.bench import accelerate
from recurra.cli import bench


@pytest.fixture
def tiny(monkeypatch):
    """Models of two blocks, texts of two tokens."""
    monkeypatch.setattr(accelerate, "VOCABULARY", 16)
    monkeypatch.setattr(accelerate, "TOKENS", 2)
    monkeypatch.setattr(accelerate, "ten_million", lambda model, width: accelerate.Size(model, width, 2))


@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")  # of the authors' xLSTM
def test_accelerate_leaves_csv_and_record(tiny, tmp_path, read):
    pytest.importorskip("transformers")
    bench.accelerate(
        "rwkv,xlstm", width=128, depth=2, batch=1, context=64, repeats=1, threads=1, out=tmp_path
    )
    rows = read(tmp_path / "accelerate.csv")
    assert len(rows) == 2 * 3 * 2
    for row in rows:
        assert float(row["median_ms"]) > 0
        assert float(row["logits_error"]) < 1e-4
        assert (float(row["over_accelerated"]) == 1) == (row["contender"] == accelerate.OURS)
    assert "transformers" in json.loads((tmp_path / "accelerate.json").read_text())


def test_the_writing_model_has_ten_million_parameters(monkeypatch):
    pytest.importorskip("transformers")
    monkeypatch.setattr(accelerate, "PARAMETERS", 1_000_000)
    monkeypatch.setattr(accelerate, "VOCABULARY", 16)
    made = accelerate.ten_million("mamba", 128).build()
    assert abs(accelerate.parameters(made) - 1_000_000) < 1e5


def test_an_unknown_family_is_named():
    with pytest.raises(ValueError, match="mamba, rwkv, xlstm, got 'gpt2'"):
        accelerate.known(["gpt2"])
