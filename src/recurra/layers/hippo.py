"""HiPPO-LegS, whose state holds the Legendre coefficients of the whole past, and its diagonal kin."""

import math
from collections.abc import Callable

import torch
from torch import Tensor

__all__ = ["DIAGONALS", "legs"]


def legs(states: int) -> tuple[Tensor, Tensor, Tensor]:
    """(lambda, p, b), complex128 [N]: HiPPO-LegS of 2N states as diag(lambda) - p p*, and its input b.

    In the basis of its normal part; of each conjugate pair the half with a positive imaginary part.
    arXiv 2111.00396, equation 2 and theorem 1: A_nk = -sqrt((2n + 1)(2k + 1)) below the diagonal,
    -(n + 1) on it; A + P P^T is -1/2 plus a skew matrix, P_n = sqrt(n + 1/2).
    """
    n = torch.arange(2 * states, dtype=torch.float64)
    p, b = (n + 0.5).sqrt(), (2 * n + 1).sqrt()
    skew = torch.tril(-b[:, None] * b, -1)
    skew = (skew - skew.t()) / 2
    # A skew matrix is i times a Hermitian one.
    frequencies, basis = torch.linalg.eigh(skew * -1j)
    half, basis = frequencies[states:], basis[:, states:].conj().t().resolve_conj()
    return (
        torch.complex(torch.full_like(half, -0.5), half),
        basis @ p.to(basis.dtype),
        basis @ b.to(basis.dtype),
    )


def _lin(states: int) -> Tensor:
    return torch.complex(torch.full((states,), -0.5), math.pi * torch.arange(states))


def _inv(states: int) -> Tensor:
    size = 2 * states
    frequencies = size / math.pi * (size / (2 * torch.arange(states) + 1) - 1)
    return torch.complex(torch.full((states,), -0.5), frequencies)


def _real(states: int) -> Tensor:
    return torch.complex(-torch.arange(1.0, states + 1), torch.zeros(states))


# Where the diagonal of S4D begins, by its name in a config (arXiv 2206.11893, section 4).
DIAGONALS: dict[str, Callable[[int], Tensor]] = {
    "legs": lambda states: legs(states)[0],
    "inv": _inv,
    "lin": _lin,
    "real": _real,
}
