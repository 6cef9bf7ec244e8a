"""S4D and S4 beside the published kernel, dense in fp64, and scipy's discretisation stepped by hand."""

import sys
from typing import Any

import numpy as np
import pytest
import torch
from scipy.signal import cont2discrete
from torch import Tensor

from recurra.layers import hippo
from recurra.layers.s4 import S4Layer
from recurra.layers.s4d import S4DLayer
from tools import close

dplr: Any = sys.modules["recurra.ops.dplr"]

WIDTH, STATES, TIME = 4, 3, 60

every_init = pytest.mark.parametrize("init", list(hippo.DIAGONALS))
every_rule = pytest.mark.parametrize("rule", ["zoh", "bilinear"])


def _matrix(layer: S4DLayer) -> Tensor:
    return torch.complex(-layer.log_a_real.exp(), layer.a_imag).detach()


def _dense(kernel: Tensor, x: Tensor, skip: Tensor) -> Tensor:
    """sum_s K_{t-s} x_s + D x_t, by a Toeplitz matrix a channel."""
    lag = torch.arange(TIME)[:, None] - torch.arange(TIME)
    toeplitz = torch.where(lag >= 0, kernel[:, lag.clamp(min=0)], 0)
    return torch.einsum("dts,bsd->btd", toeplitz, x) + skip * x


def _published(layer: S4DLayer) -> Tensor:
    """K_l = 2 Re(sum_n C_n B_n A_n^l), as the paper writes A and B under each rule; in fp64, B = 1."""
    a, dt = _matrix(layer), layer.log_dt.exp().detach()[:, None]
    if layer.discretisation == "zoh":
        powers, inputs = (dt * a).exp(), ((dt * a).exp() - 1) / a
    else:
        powers, inputs = (1 + dt / 2 * a) / (1 - dt / 2 * a), dt / (1 - dt / 2 * a)
    c = torch.view_as_complex(layer.c.detach())
    steps = powers[..., None] ** torch.arange(TIME)
    return 2 * torch.einsum("dn,dnt->dt", c * inputs, steps).real


def _real(x: Tensor) -> np.ndarray:
    """Complex numbers of a half as the real and imaginary parts that scipy takes, [..., 2N]."""
    return torch.cat([x.real, x.imag], -1).detach().numpy()


def _scipy(layer: S4DLayer | S4Layer, matrices: np.ndarray, inputs: Tensor, rule: str, x: Tensor) -> Tensor:
    """Each channel as a real system of 2N states, discretised by scipy, and stepped."""
    c, skip, dt = torch.view_as_complex(layer.c.detach()), layer.skip.detach(), layer.log_dt.exp().detach()
    y = torch.zeros(x.shape).double()
    for d in range(WIDTH):
        read, given = 2 * _real(c[d].conj())[None], _real(inputs[d])[:, None]
        a, b, *_ = cont2discrete((matrices[d], given, read, np.zeros((1, 1))), float(dt[d]), method=rule)
        h = np.zeros((len(x), 2 * STATES))
        for t in range(TIME):
            h = h @ a.T + x[:, t, d : d + 1].numpy() @ b.T
            # scipy's bilinear rule moves half of the input into the output's matrices: h is read as ours is.
            y[:, t, d] = torch.from_numpy((h @ read.T)[:, 0])
    return y + skip * x


def _diagonals(poles: Tensor) -> np.ndarray:
    """[D, 2N, 2N]: what a product with the poles does to real and imaginary parts."""
    real, imag = torch.diag_embed(poles.real), torch.diag_embed(poles.imag)
    return torch.cat([torch.cat([real, -imag], -1), torch.cat([imag, real], -1)], -2).detach().numpy()


@every_init
@every_rule
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_s4d_is_the_published_convolution(init: str, rule: str, dtype: torch.dtype) -> None:
    layer = S4DLayer(WIDTH, STATES, init=init, discretisation=rule).to(dtype)
    x = torch.randn(2, TIME, WIDTH, dtype=dtype)
    y, _ = layer(x)
    close(y, _dense(_published(layer.double()), x.double(), layer.skip.detach()))


@every_init
@every_rule
def test_s4d_is_scipys_discretisation(init: str, rule: str) -> None:
    layer = S4DLayer(WIDTH, STATES, init=init, discretisation=rule).double()
    x, poles = torch.randn(2, TIME, WIDTH).double(), _matrix(layer)
    close(layer(x)[0], _scipy(layer, _diagonals(poles), torch.ones_like(poles), rule, x))


def _s4() -> tuple[S4Layer, Tensor]:
    return S4Layer(WIDTH, STATES).double(), torch.randn(2, TIME, WIDTH).double()


def test_s4_is_scipys_discretisation() -> None:
    layer, x = _s4()
    s = layer.system()
    column, row = _real(s.p)[..., None], 2 * _real(s.p)[:, None]
    close(layer(x)[0], _scipy(layer, _diagonals(s.poles) - column * row, s.b, "bilinear", x))


def test_s4_is_hippo_in_the_bilinear_rule() -> None:
    """The state in the triangular form of the paper, dense: c is brought there, A and B are written down."""
    layer, x = _s4()
    n = torch.arange(2 * STATES).double()
    size = (2 * n + 1).sqrt()
    a = -torch.tril(size[:, None] * size, -1) - torch.diag(n + 1)
    skew = a + 0.5 * torch.eye(len(n)) + (n + 0.5).sqrt()[:, None] * (n + 0.5).sqrt()
    basis = torch.linalg.eigh(skew * -1j)[1][:, STATES:].conj()
    c = 2 * (torch.view_as_complex(layer.c.detach()) @ basis.t()).real
    kernels = []
    for dt, read in zip(layer.log_dt.exp().detach(), c, strict=True):
        left, right = torch.eye(len(n)) - dt / 2 * a, torch.eye(len(n)) + dt / 2 * a
        step, h = (
            torch.linalg.solve(left.double(), right.double()),
            torch.linalg.solve(left.double(), dt * size),
        )
        kernel = []
        for _ in range(TIME):
            kernel.append(read @ h)
            h = step @ h
        kernels.append(torch.stack(kernel))
    want = _dense(torch.stack(kernels), x, layer.skip.detach())
    close(layer(x)[0].float(), want.float())  # as exact as the parameters, drawn in fp32


@pytest.mark.parametrize("time", [1, 2, TIME, 64, 65, 150])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_s4_forms(time: int, dtype: torch.dtype) -> None:
    """Step by step, in chunks and by the Cauchy kernel: outputs, last state, every gradient."""
    layer, x = S4Layer(WIDTH, STATES).to(dtype), torch.randn(2, time, WIDTH, dtype=dtype)
    h_0, dy = torch.randn(2, WIDTH, STATES, dtype=dtype.to_complex()), torch.randn_like(x)

    def results(form: str, begin: Tensor, layer: S4Layer, x: Tensor) -> list[Tensor]:
        s, skip = layer.system(), layer.skip
        d, begin, x = dplr.discretise(s), begin.detach().requires_grad_(), x.detach().requires_grad_()

        def by_planes() -> tuple[Tensor, Tensor]:
            state = dplr.LinearState(dplr.planes(begin))
            y, end = dplr.dplr(x, s, skip, state)
            return y, dplr.from_planes(end.h)

        calls = {
            "native": by_planes,
            "loop": lambda: dplr.dplr_loop(x, d, skip, begin, None, None),
            "chunked": lambda: dplr.dplr_chunked(x, d, skip, begin, None),
            "convolution": lambda: dplr.dplr_convolution(x, s, skip),
        }
        y, h = calls[form]()
        leaves = [x, *layer.parameters(), *([begin] if form != "convolution" and begin.any() else [])]
        loss = (y * dy.to(y.dtype)).sum() + h.abs().square().sum()
        return [y, h, *torch.autograd.grad(loss, leaves)]

    wide = S4Layer(WIDTH, STATES).double()
    wide.load_state_dict(layer.state_dict())
    fresh = torch.zeros_like(h_0)
    begins = {"loop": [h_0], "native": [h_0, fresh], "chunked": [h_0, fresh], "convolution": [fresh]}
    for form, begin in ((form, begin) for form, given in begins.items() for begin in given):
        want = results("loop", begin.to(torch.complex128), wide, x.double())
        for got, expected in zip(results(form, begin, layer, x), want, strict=True):
            # The convolution divides by 1 - A_bar^T, which is small in a short row: dt is 0.001 at the least.
            close(got, expected, 8192 if form == "convolution" else 512)


def test_s4_lengths_end_inside_chunks() -> None:
    layer, x = S4Layer(WIDTH, STATES).double(), torch.randn(4, 150, WIDTH).double()
    lengths, begin = torch.tensor([0, 64, 77, 150]), layer(x)[1]
    y, end = layer(x, begin, None, lengths)
    want, last = layer(x, begin, torch.zeros(4, 150, dtype=torch.bool), lengths)
    close(y, want, 1024)
    close(end.h, last.h, 1024)


def test_legs_is_hippo() -> None:
    """The normal form is similar to the triangular matrix, of poles -1 ... -2N, and its input likewise."""
    poles, p, b = hippo.legs(STATES)
    poles, p, b = (torch.cat([x, x.conj()]) for x in (poles, p, b))
    matrix = torch.diag(poles) - p[:, None] * p.conj()
    close(torch.linalg.eigvals(matrix).real.sort().values, -torch.arange(2.0 * STATES, 0, -1).double(), 4096)
    # The response to an impulse, from the triangular form: its first Legendre coefficient.
    n = torch.arange(2 * STATES).double()
    size = (2 * n + 1).sqrt()
    triangular = -torch.tril(size[:, None] * size, -1) - torch.diag(n + 1)
    for power in range(4):
        moment = p.conj() @ torch.linalg.matrix_power(matrix, power) @ b
        want = (n + 0.5).sqrt() @ torch.linalg.matrix_power(triangular, power) @ size
        close(moment.real, want, 4096)  # the triangular form is far from normal


def test_drawn_as_the_paper_says() -> None:
    steps = S4DLayer(1000, 2, dt_min=1e-3, dt_max=0.1).log_dt.exp()
    assert 1e-3 <= steps.min() < 2e-3
    assert 0.05 < steps.max() <= 0.1
    poles = {init: _matrix(S4DLayer(1, 4, init=init))[0] for init in hippo.DIAGONALS}
    close(poles["lin"].imag, torch.pi * torch.arange(4.0))
    close(poles["inv"].imag, 8 / torch.pi * (8 / (2 * torch.arange(4.0) + 1) - 1))
    close(poles["real"].real, -torch.arange(1.0, 5))
    for init in ("lin", "inv", "legs"):
        close(poles[init].real, torch.full((4,), -0.5))


@pytest.mark.parametrize("kind", [S4DLayer, S4Layer])
def test_a_step_sees_new_parameters(kind: Any) -> None:
    layer, x = kind(WIDTH, STATES), torch.randn(2, WIDTH)
    with torch.no_grad():
        old = layer.step(x)[0]
        assert layer.step(x)[0].equal(old)
        layer.c.mul_(2)
        want = layer(x[:, None])[0][:, 0]
        close(layer.step(x)[0], want)
        layer.load_state_dict({name: p * 0.5 for name, p in layer.state_dict().items()})
        close(layer.step(x)[0], layer(x[:, None])[0][:, 0])
        close(layer.double().step(x.double())[0], layer(x[:, None].double())[0][:, 0])


@pytest.mark.parametrize("kind", [S4DLayer, S4Layer])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@torch.no_grad()
def test_a_step_of_any_dtype(kind: Any, dtype: torch.dtype) -> None:
    """The parameters may be narrower or wider than what comes in."""
    layer = kind(WIDTH, STATES).to(dtype)
    for given in (torch.float32, torch.float64, torch.bfloat16):
        x = torch.randn(2, WIDTH, dtype=given)
        y, _ = layer.step(x)
        assert y.dtype == given
        want = layer(x[:, None])[0][:, 0]
        close(*(out.float() if given == torch.float64 else out for out in (y, want)))


@pytest.mark.parametrize("kind", [S4DLayer, S4Layer])
def test_autocast_leaves_it_alone(kind: Any) -> None:
    layer, x = kind(WIDTH, STATES), torch.randn(2, TIME, WIDTH)
    want, end = layer(x)
    with torch.autocast("cpu", torch.bfloat16):
        y, last = layer(x)
    close(y, want.double())
    close(last.h, end.h)


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ({"init": "none"}, "init must be one of legs, inv, lin, real, got 'none'"),
        ({"discretisation": "euler"}, "discretisation must be one of zoh, bilinear"),
        ({"dt_min": 0.2}, "dt_min must be positive and at most dt_max"),
    ],
)
def test_errors_name_the_argument(how: dict[str, object], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        S4DLayer(WIDTH, STATES, **how)
