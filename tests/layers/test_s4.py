"""S4D beside the published kernel as a dense fp64 convolution, and scipy's discretisation stepped by hand."""

import numpy as np
import pytest
import torch
from scipy.signal import cont2discrete
from torch import Tensor

from recurra.layers import hippo
from recurra.layers.s4d import S4DLayer
from tools import close

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


def _scipy(layer: S4DLayer, x: Tensor) -> Tensor:
    """Each channel as a real system of 2N states, discretised by scipy, and stepped."""
    a, dt = _matrix(layer).numpy(), layer.log_dt.exp().detach().numpy()
    c, skip = torch.view_as_complex(layer.c.detach()).numpy(), layer.skip.detach().numpy()
    y = np.zeros(x.shape)
    for d in range(WIDTH):
        blocks = [[[pole.real, -pole.imag], [pole.imag, pole.real]] for pole in a[d]]
        matrix = np.zeros((2 * STATES, 2 * STATES))
        for n, block in enumerate(blocks):
            matrix[2 * n : 2 * n + 2, 2 * n : 2 * n + 2] = block
        inputs = np.tile([[1.0], [0.0]], (STATES, 1))
        read = np.stack([2 * c[d].real, -2 * c[d].imag], 1).reshape(1, -1)
        system = (matrix, inputs, read, skip[d : d + 1, None])
        discrete = cont2discrete(system, dt[d], method=layer.discretisation)
        h = np.zeros((len(x), 2 * STATES))
        for t in range(TIME):
            h = h @ discrete[0].T + x[:, t, d : d + 1].numpy() @ discrete[1].T
            # scipy's bilinear rule moves half of the input into the output matrices: read h as we do.
            y[:, t, d] = (h @ read.T)[:, 0] + skip[d] * x[:, t, d].numpy()
    return torch.from_numpy(y)


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
    x = torch.randn(2, TIME, WIDTH).double()
    close(layer(x)[0], _scipy(layer, x))


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


def test_a_step_sees_new_parameters() -> None:
    layer, x = S4DLayer(WIDTH, STATES), torch.randn(2, WIDTH)
    with torch.no_grad():
        old = layer.step(x)[0]
        assert layer.step(x)[0].equal(old)
        layer.c.mul_(2)
        want = layer(x[:, None])[0][:, 0]
        close(layer.step(x)[0], want)
        layer.load_state_dict({name: p * 0.5 for name, p in layer.state_dict().items()})
        close(layer.step(x)[0], layer(x[:, None])[0][:, 0])
        close(layer.double().step(x.double())[0], layer(x[:, None].double())[0][:, 0])


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
