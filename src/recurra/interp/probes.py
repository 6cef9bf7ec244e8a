"""Linear probes: directions along which values of true statements lie apart from those of false ones.

What they read is of a place of a model where the answer is due, [N, D]; or, for those of contrast pairs, the
values after No and after Yes, [N, 2, D], as one row. Scores are inner products with the direction.
"""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import normalize

from recurra.extras import need
from recurra.interp.contrast import METHODS

__all__ = ["PROBES", "Probe", "auroc"]

# L2 penalty of logistic regression, beside the mean loss, and of CCS; tries of CCS (arXiv 2312.01037's code).
PENALTY, WEIGHT_DECAY, TRIES, STEPS = 0.001, 0.01, 10, 100
# A feature that moves less than this share of the others' mean deviation is not to be blown up.
STILL = 0.01


# Values [N, D] and whether they are of true statements [N], to a direction [D].
Fit = Callable[[Tensor, Tensor], Tensor]


class Probe(NamedTuple):
    """fit(values [N, D], true [N]) gives a direction [D]; with pairs D counts the values of both answers."""

    fit: Fit
    pairs: bool


def auroc(scores: Tensor, true: Tensor) -> float:
    """P(s > t) + P(s = t) / 2 for the score s of a true statement and t of a false one, [N] each.

    Raises ValueError where there are not both.
    """
    if not 0 < int(true.sum()) < len(true):
        raise ValueError(f"true must hold both of True and False, got {int(true.sum())} of {len(true)} True")
    own, other = scores[true], scores[~true].sort().values
    less, no_more = torch.searchsorted(other, own), torch.searchsorted(other, own, right=True)
    return float((less + no_more).double().mean() / (2 * len(other)))


def logistic(values: Tensor, true: Tensor) -> Tensor:
    """Logistic regression with an L2 penalty of 0.001 w.w / 2 beside the mean loss, by scikit-learn.

    Of values over their deviation: the penalty then says the same at each place. Raises RuntimeError where
    scikit-learn is missing.
    """
    kind = need("sklearn.linear_model", "interp").LogisticRegression
    deviation = values.std(0)
    deviation = deviation.clamp(min=max(STILL * float(deviation.mean()), 1e-12))
    x = ((values - values.mean(0)) / deviation).double()
    fitted = kind(C=1 / (PENALTY * len(x)), max_iter=1000).fit(x.numpy(), true.numpy())
    direction: Tensor = torch.from_numpy(fitted.coef_[0]).float() / deviation
    return direction


def _mean(method: str, values: Tensor, true: Tensor) -> Tensor:
    """By the means of both kinds: see `contrast`."""
    kept = METHODS[method]()
    for side in (False, True):
        kept.add(int(side), values[true == side])
    direction: Tensor = kept.vector()
    return direction


def _centred(values: Tensor) -> Tensor:
    """Pairs [N, 2, D], each side less its mean, which would tell Yes from No, over one deviation for all."""
    pairs = values.view(len(values), 2, -1)
    pairs = pairs - pairs.mean(0)
    return pairs / pairs.square().mean().sqrt().clamp(min=1e-12)


def _signed(direction: Tensor, values: Tensor, true: Tensor) -> Tensor:
    """What was found without labels may be a direction of the false: those of training settle that alone."""
    apart = _mean("difference", values, true) @ direction
    return direction if apart >= 0 else -direction


def _first_component(x: Tensor) -> Tensor:
    """Of x [N, D], of length 1: by whichever of x'x and xx' is the smaller."""
    wide = x.shape[0] < x.shape[1]
    largest: Tensor = torch.linalg.eigh(x @ x.T if wide else x.T @ x).eigenvectors[:, -1]
    return normalize(x.T @ largest if wide else largest, dim=0)


def _spanned(fit: Fit, sides: int, values: Tensor, true: Tensor) -> Tensor:
    """The same direction, found in the span of the values where that has fewer dimensions than they have.

    Exact: these fits know values by their inner products alone. sides: 2 for pairs, which share the span.
    """
    rows = values.view(len(values) * sides, -1)
    if rows.shape[0] >= rows.shape[1]:
        return fit(values, true)
    basis = torch.linalg.qr(rows.T.double()).Q.float()
    direction = fit((rows @ basis).view(len(values), -1), true)
    whole: Tensor = direction.view(sides, -1) @ basis.T
    return whole.flatten()


def crc(values: Tensor, true: Tensor) -> Tensor:
    """The first principal component of yes - no, each centred (arXiv 2212.03827, "CRC (TPC)").

    Its sign is that by which true statements of `values` score more: labels are used for nothing else.
    """
    no, yes = _centred(values).double().unbind(1)
    component = _first_component(yes - no).float()
    return _signed(torch.cat([-component, component]), values, true)


def ccs(values: Tensor, true: Tensor) -> Tensor:
    """Contrast-consistent search (arXiv 2212.03827, section 2.2); its sign as in `crc`.

    p = sigmoid(w.x + b) that minimises the mean of (p(yes) + p(no) - 1)^2 + min(p(yes), p(no))^2, the best of
    ten tries; by L-BFGS with weight decay, scored by logit(yes) - logit(no), as in arXiv 2312.01037's code.
    """
    pairs = _centred(values)
    draw = torch.Generator().manual_seed(0)
    weight = torch.randn(pairs.shape[-1], TRIES, generator=draw) / pairs.shape[-1] ** 0.5
    bias = torch.zeros(TRIES)
    parameters = [weight.requires_grad_(), bias.requires_grad_()]
    search = torch.optim.LBFGS(parameters, max_iter=STEPS, line_search_fn="strong_wolfe")

    def losses() -> Tensor:
        p: Tensor = (pairs @ weight + bias).sigmoid()
        return ((p.sum(1) - 1).square() + p.amin(1).square()).mean(0)

    def closure() -> float:
        search.zero_grad()
        with torch.enable_grad():
            loss = losses().sum() + WEIGHT_DECAY / 2 * sum(p.square().sum() for p in parameters)
            loss.backward()
        return float(loss.detach())

    search.step(closure)
    best = weight.detach()[:, losses().argmin()]
    return _signed(torch.cat([-best, best]), values, true)


PROBES: dict[str, Probe] = {
    "logistic": Probe(logistic, pairs=False),
    "difference": Probe(partial(_mean, "difference"), pairs=False),
    "lda": Probe(partial(_spanned, partial(_mean, "lda"), 1), pairs=False),
    "logistic pairs": Probe(logistic, pairs=True),
    "ccs": Probe(partial(_spanned, ccs, 2), pairs=True),
    "crc": Probe(crc, pairs=True),
}
