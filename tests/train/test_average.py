"""A run is judged by the mean of its last evaluations' weights, leaves it, and trains as it would without."""

import pytest
import torch

from recurra.models import SequenceModel
from recurra.train import checkpoint
from recurra.train.loop import fit


def _weights(model):
    return torch.cat([p.detach().flatten() for p in model.parameters()])


@pytest.fixture
def judged(text, small, model, monkeypatch):
    """The weights of each evaluation of a run, the third of which is the best."""

    def run(out, **options):
        seen, scores = [], iter([3.0, 2.0, 1.0, 2.0])

        def score(self, model, context, count):
            seen.append(_weights(model))
            return next(scores)

        monkeypatch.setattr(type(text), "score", score)
        config = small(steps=8, every=2, **options)
        fit(model(config), text, config, out)
        return seen

    return run


def test_the_mean_is_judged_and_kept(judged, losses, tmp_path):
    one, two, three, four = plain = judged(tmp_path / "plain")
    means = judged(tmp_path / "mean", average=3)
    want = [one, (one + two) / 2, (one + two + three) / 3, (two + three + four) / 3]
    torch.testing.assert_close(means, want)
    assert losses(tmp_path / "mean") == losses(tmp_path / "plain")
    for name, seen in (("plain", plain), ("mean", means)):
        folder = checkpoint.best(tmp_path / name)
        assert folder.name == "step-00000006"
        assert torch.equal(_weights(SequenceModel.from_pretrained(folder)), seen[2])
