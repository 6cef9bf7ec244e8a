# mypy: disable-error-code="no-untyped-def, untyped-decorator, no-untyped-call, import-untyped, assignment"
# Triton reads the kernels as its own language: their arguments have no types of Python.
"""The cells of csrc/cell.h as Triton functions: x from the input, w from W_hh h + bias; a GRU has no fourth.

States are h, c, n, m; a cell hands back those that it has not as they were.
"""

import triton
import triton.language as tl

from recurra.ops.kernels.gates import candidate, exp, sigmoid


@triton.jit
def _gru(x, w, h):
    r, r_rest = sigmoid(x[0] + w[0])
    z, z_rest = sigmoid(x[1] + w[1])
    a, slope = candidate(x[2] + r * w[2], "tanh")
    return r, r_rest, z, z_rest, a, slope


@triton.jit
def _lstm(x, w, c):
    i, i_rest = sigmoid(x[0] + w[0])
    f, f_rest = sigmoid(x[1] + w[1])
    g, slope = candidate(x[2] + w[2], "tanh")
    c = f * c + i * g
    return i, i_rest, f, f_rest, g, slope, c


@triton.jit
def _slstm(x, w, c, n, m):
    """What is kept and taken, in units of the larger exponent; where n is 0, m stands for -infinity."""
    p = x[1] + w[1]
    # The logarithm of sigmoid(p): an exponent is right where its absolute error is small.
    forget = tl.minimum(p, 0.0) - tl.log(1.0 + exp(-tl.abs(p))) + tl.where(n == 0, float("-inf"), m)
    i = x[0] + w[0]
    kept = forget > i
    m = tl.where(kept, forget, i)
    keep, take = exp(forget - m), exp(i - m)
    z, slope = candidate(x[2] + w[2], "tanh")
    return kept, keep, take, z, slope, keep * c + take * z, keep * n + take, m


@triton.jit
def forward(x, w, h, c, n, m, CELL: tl.constexpr):
    """The states after a step."""
    if CELL == "gru":
        _, _, z, z_rest, a, _ = _gru(x, w, h)
        h = z_rest * a + z * h
    elif CELL == "lstm":
        _, _, _, _, _, _, c = _lstm(x, w, c)
        o, _ = sigmoid(x[3] + w[3])
        y, _ = candidate(c, "tanh")
        h = o * y
    else:
        _, _, _, _, _, c, n, m = _slstm(x, w, c, n, m)
        o, _ = sigmoid(x[3] + w[3])
        h = o * c / n
    return h, c, n, m


@triton.jit
def pullback(x, w, h, c, n, m, dh, dc, dn, dm, CELL: tl.constexpr):
    """Gradients of x, of w, and of the states before a step but for what passes through w."""
    if CELL == "gru":
        r, r_rest, z, z_rest, a, slope = _gru(x, w, h)
        x2 = dh * z_rest * slope
        x1 = dh * (h - a) * (z * z_rest)
        x0 = x2 * w[2] * (r * r_rest)
        dx, dw = (x0, x1, x2, x2), (x0, x1, x2 * r, x2)
        dh = dh * z
    elif CELL == "lstm":
        i, i_rest, f, f_rest, g, slope, after = _lstm(x, w, c)
        o, o_rest = sigmoid(x[3] + w[3])
        y, y_slope = candidate(after, "tanh")
        dc += dh * o * y_slope
        dx = (dc * g * (i * i_rest), dc * c * (f * f_rest), dc * i * slope, dh * y * (o * o_rest))
        dw = dx
        dh, dc = dh * 0.0, dc * f
    else:
        kept, keep, take, z, slope, c_after, n_after, _ = _slstm(x, w, c, n, m)
        o, o_rest = sigmoid(x[3] + w[3])
        _, f_rest = sigmoid(x[1] + w[1])
        ratio, dratio = c_after / n_after, dh * o
        dc, dn = dc + dratio / n_after, dn - dratio * ratio / n_after
        # Of both exponents over m; the larger one is m.
        dkeep, dtake = keep * (dc * c + dn * n), take * (dc * z + dn)
        dforget = tl.where(kept, dm - dtake, dkeep)
        d_in = tl.where(kept, dtake, dm - dkeep)
        dx = (d_in, dforget * f_rest, dc * take * slope, dh * ratio * (o * o_rest))
        dw = dx
        dh, dc, dn, dm = dh * 0.0, dc * keep, dn * keep, dforget
    return dx, dw, dh, dc, dn, dm
