"""Probes find a direction that was planted; each against its closed form, or a package of others."""

import pytest
import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity, normalize

from recurra.interp import PROBES, auroc
from recurra.interp.probes import _first_component, _spanned, ccs
from tools import close

every = pytest.mark.parametrize("name", PROBES)


def planted(
    dimensions: int, count: int, seed: int = 1, base: float = 1.0
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Values [N, D] and pairs [N, 2 D] in which truth is one direction, whether they are true, and it.

    The values of a pair share what is said, and Yes and No have a shift of their own.
    """
    truth = normalize(torch.randn(dimensions, generator=torch.Generator().manual_seed(0)), dim=0)
    draw = torch.Generator().manual_seed(seed)
    true = torch.rand(count, generator=draw) < 0.4
    side = truth * (2 * true[:, None].float() - 1)
    noise = torch.randn(3, count, dimensions, generator=draw)
    values = noise[0] + 2 * side
    no, yes = (base * noise[1] + 0.5 * noise[2] + sign * (2 * side + 1) for sign in (-1, 1))
    return values, torch.cat([no, yes], 1), true, truth


@every
@pytest.mark.parametrize("dimensions", [12, 96])
def test_a_planted_direction_is_found(name: str, dimensions: int) -> None:
    """With fewer examples than dimensions, too."""
    if name.startswith("logistic"):
        pytest.importorskip("sklearn")
    fit, pairs = PROBES[name]
    *train, true, truth = planted(dimensions, 80)
    *test, judged, _ = planted(dimensions, 400, seed=2)
    direction = fit(train[pairs], true)
    assert auroc(test[pairs] @ direction, judged) > (0.97 if dimensions < 80 else 0.85)
    if pairs:
        no, yes = direction.chunk(2)
        direction = yes - no
    assert cosine_similarity(direction, truth, dim=0) > (0.7 if dimensions < 80 else 0.3)


@every
def test_without_labels_it_is_the_same_up_to_its_sign(name: str) -> None:
    """Those without labels take a sign from them, and nothing else; the others turn with them."""
    if name.startswith("logistic"):
        pytest.importorskip("sklearn")
    fit, pairs = PROBES[name]
    *train, true, _ = planted(12, 80)
    direction = fit(train[pairs], true)
    close(fit(train[pairs], ~true), -direction, 5e4)
    if name in {"ccs", "crc"}:
        some = true.clone()
        some[:10] = ~some[:10]
        assert fit(train[pairs], some).equal(direction)


def test_logistic_regression_is_at_its_minimum() -> None:
    """Of the mean loss and the penalty, by its gradient: in units of each value's deviation."""
    pytest.importorskip("sklearn")
    values, _, true, _ = planted(12, 80)
    deviation = values.std(0)
    weight = (PROBES["logistic"].fit(values, true) * deviation).double().requires_grad_()
    x, y = ((values - values.mean(0)) / deviation).double(), true.double()
    bias = torch.zeros((), dtype=torch.float64)
    for _ in range(50):  # by Newton's method, the weight as it is
        p = (x @ weight.detach() + bias).sigmoid()
        bias = bias - (p - y).mean() / (p * (1 - p)).mean()
    loss = torch.nn.functional.binary_cross_entropy_with_logits(x @ weight + bias, y)
    (loss + 0.001 / 2 * weight.square().sum()).backward()
    assert weight.grad is not None
    assert weight.grad.abs().max() < 1e-3


def test_the_means_and_the_covariance() -> None:
    values, _, true, _ = planted(6, 80)
    one, other = values[true].double(), values[~true].double()
    apart = one.mean(0) - other.mean(0)
    close(PROBES["difference"].fit(values, true), apart.float())
    pooled = (one.T.cov() * (len(one) - 1) + other.T.cov() * (len(other) - 1)) / (len(values) - 2)
    close(PROBES["lda"].fit(values, true), torch.linalg.solve(pooled, apart).float(), 1e4)


@pytest.mark.parametrize("shape", [(30, 5), (5, 30)])
def test_the_first_component(shape: tuple[int, int]) -> None:
    x = torch.randn(shape, dtype=torch.float64)
    want = torch.linalg.svd(x).Vh[0]
    got = _first_component(x)
    close(got * (got @ want).sign(), want, 1e8)


def test_crc_is_the_first_component_of_centred_differences() -> None:
    _, pairs, true, _ = planted(6, 80)
    apart = pairs[:, 6:] - pairs[:, :6]
    want = torch.linalg.svd((apart - apart.mean(0)).double()).Vh[0].float()
    direction = PROBES["crc"].fit(pairs, true)
    close(direction[:6], -direction[6:], 0)
    assert cosine_similarity(direction[6:], want, dim=0).abs() > 1 - 1e-5


def test_ccs_knows_no_better_direction() -> None:
    """Its loss is no larger than that of the truth that was planted, at the best scale of that."""
    _, pairs, true, truth = planted(6, 200)
    sides = pairs.view(-1, 2, 6)
    sides = sides - sides.mean(0)
    sides = sides / sides.square().mean().sqrt()

    def loss(weight: Tensor) -> Tensor:
        p = (sides @ weight).sigmoid()
        total = (p.sum(1) - 1).square() + p.amin(1).square()
        return total.mean() + 0.005 * weight.square().sum()

    direction = ccs(pairs, true)[6:]
    best = min(float(loss(size * truth)) for size in torch.linspace(0, 10, 50))
    assert float(loss(direction)) < 1.05 * best


def test_in_the_span_nothing_is_lost() -> None:
    values, _, true, _ = planted(60, 20)
    lda = PROBES["lda"].fit
    from_all = lda.args[0]  # type: ignore[attr-defined]
    close(lda(values, true), from_all(values, true), 1e5)
    seen = []

    def fit(inside: Tensor, true: Tensor) -> Tensor:
        seen.append(inside.shape)
        return true.float() @ inside

    got = _spanned(fit, 2, torch.cat([values, values.flip(0)], 1), true)
    assert seen == [(20, 2 * 40)]
    # Of sixty dimensions the forty values of both sides span forty.
    close(got, true.float() @ torch.cat([values, values.flip(0)], 1), 1e4)


@pytest.mark.parametrize("levels", [3, 10_000])
def test_auroc(levels: int) -> None:
    """As scikit-learn counts it, with and without ties."""
    metrics = pytest.importorskip("sklearn.metrics")
    scores, true = torch.randint(levels, (300,)).float(), torch.rand(300) < 0.3
    assert auroc(scores, true) == pytest.approx(metrics.roc_auc_score(true.numpy(), scores.numpy()))
    assert auroc(true.float(), true) == 1
    assert auroc(torch.zeros(300), true) == 0.5
    with pytest.raises(ValueError, match="true must hold both of True and False, got 0 of 300 True"):
        auroc(scores, true & ~true)
