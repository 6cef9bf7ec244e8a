"""Oracles that nobody here wrote: scipy's filter, and the scan in the logarithm that the paper gives."""

import pytest
import torch
from scipy.signal import lfilter
from torch import Tensor
from torch.nn.functional import softplus

from recurra import ops
from recurra.ops import native
from recurra.state import LinearState
from recurrences import NATIVE
from tools import close


@pytest.fixture(params=["plain", pytest.param("kernels", marks=NATIVE)], autouse=True)
def form(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param == "plain":
        monkeypatch.setattr(native, "takes", lambda *_: False)


@pytest.mark.parametrize("a", [0.0, 0.5, -0.9, 0.999, 1.0, 0.6 + 0.7j, -1j])
def test_lfilter(a: complex) -> None:
    """y[n] = x[n] + a y[n-1], the filter 1 / (1 - a z^-1), begun with a h_0."""
    dtype = torch.complex128 if isinstance(a, complex) else torch.float64
    b, h_0 = torch.randn(3, 200, 5, dtype=dtype), torch.randn(3, 5, dtype=dtype)
    y, state = ops.linear(torch.full_like(b, a), b, LinearState(h_0))
    want, end = lfilter([1], [1, -a], b.numpy(), axis=1, zi=(a * h_0)[:, None].numpy())
    close(y, torch.from_numpy(want))
    if a:
        close(state.h, torch.from_numpy(end[:, 0] / a))
    back, _ = ops.linear(torch.full_like(b, a), b, LinearState(h_0), reverse=True)
    want, _ = lfilter([1], [1, -a], b.flip(1).numpy(), axis=1, zi=(a * h_0)[:, None].numpy())
    close(back, torch.from_numpy(want).flip(1))


def log_g(k: Tensor) -> Tensor:
    return torch.where(k >= 0, (k.relu() + 0.5).log(), -softplus(-k))


def log_space_scan(log_a: Tensor, log_b: Tensor, log_h_0: Tensor) -> Tensor:
    """Appendix B of arXiv 2410.01201 (Heinsen's scan): all in logarithms, no recurrence anywhere."""
    log_a = torch.cat([torch.zeros_like(log_h_0)[:, None], log_a], 1).cumsum(1)
    log_b = torch.cat([log_h_0[:, None], log_b], 1)
    return (log_a + (log_b - log_a).logcumsumexp(1)).exp()[:, 1:]


@pytest.mark.parametrize("time", [1, 7, 300])
def test_mingru_in_log_space(time: int) -> None:
    gates, h_0 = torch.randn(3, time, 10).double(), torch.rand(3, 5).double()
    k, z = gates.chunk(2, -1)
    y, _ = ops.mingru(gates, LinearState(h_0))
    close(y, log_space_scan(-softplus(z), log_g(k) - softplus(-z), h_0.log()), eps=1 << 14)


@pytest.mark.parametrize("normalized", [True, False])
@pytest.mark.parametrize("time", [1, 7, 300])
def test_minlstm_in_log_space(time: int, normalized: bool) -> None:
    gates, h_0 = torch.randn(3, time, 15).double(), torch.rand(3, 5).double()
    k, f, i = gates.chunk(3, -1)
    difference = softplus(-f) - softplus(-i)
    log_f, log_i = (-softplus(x) for x in ((difference, -difference) if normalized else (-f, -i)))
    y, _ = ops.minlstm(gates, LinearState(h_0), normalized=normalized)
    close(y, log_space_scan(log_f, log_g(k) + log_i, h_0.log()), eps=1 << 14)
