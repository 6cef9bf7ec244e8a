# mypy: disable-error-code="no-untyped-def, untyped-decorator, no-untyped-call, import-untyped, assignment"
# Triton reads the kernels as its own language: their arguments have no types of Python.
"""Gates of h = a h + b, as Triton functions; x2 is read by the cells with three parts alone."""

import triton
import triton.language as tl


@triton.jit
def exp(x):
    return tl.exp2(x * 1.4426950408889634)


@triton.jit
def inverse(p):
    """1 / p for p in [1, 1e37]: half the instructions of a division, which takes care of all other p."""
    r = tl.rsqrt(p)
    r = r * r
    return r + r * (1.0 - p * r)


@triton.jit
def sigmoid(x):
    """sigmoid(x) and 1 - sigmoid(x), both to full relative precision."""
    e = exp(tl.minimum(-x, 80.0, propagate_nan=tl.PropagateNan.ALL))
    s = inverse(1.0 + e)
    return s, e * s


@triton.jit
def quotient(phi, iota):
    """f / (f + i) and i / (f + i): of their quotient, so that two closed gates give no 0/0."""
    p_f, p_i = 1.0 + exp(-tl.abs(phi)), 1.0 + exp(-tl.abs(iota))
    # i/f; beyond e^80 its inverse is zero in fp32 all the same.
    q = exp(tl.minimum(tl.minimum(iota, 0.0) - tl.minimum(phi, 0.0), 80.0)) * (p_f * inverse(p_i))
    f = inverse(1.0 + q)
    return f, q * f


@triton.jit
def candidate(k, CANDIDATE: tl.constexpr):
    """The candidate and its slope."""
    if CANDIDATE == "positive":
        s, rest = sigmoid(k)
        c, slope = tl.where(k < 0, s, k + 0.5), tl.where(k < 0, s * rest, 1.0)
    elif CANDIDATE == "tanh":
        e, kk = exp(-2.0 * tl.abs(k)), k * k
        far = tl.where(k < 0, e - 1.0, 1.0 - e) * inverse(1.0 + e)
        near = k * (1.0 + kk * (-1.0 / 3 + kk * (2.0 / 15 - kk * (17.0 / 315))))
        c = tl.where(kk < 0.04, near, far)
        slope = 1.0 - c * c
    else:
        c, slope = k, k * 0 + 1.0
    return c, slope


@triton.jit
def gates(x0, x1, x2, CELL: tl.constexpr, CANDIDATE: tl.constexpr):
    """(a, b) of h = a h + b."""
    if CELL == "linear":
        a, b = x0, x1
    else:
        c, _ = candidate(x0, CANDIDATE)
        if CELL == "mingru":
            i, a = sigmoid(x1)
        elif CELL == "minlstm":
            a, i = quotient(x1, x2)
        else:
            a, _ = sigmoid(x1)
            i, _ = sigmoid(x2)
        b = i * c
    return a, b


@triton.jit
def pullback(x0, x1, x2, h, g, CELL: tl.constexpr, CANDIDATE: tl.constexpr):
    """Gradients of the inputs of a step from h, given that of its result."""
    d2 = g
    if CELL == "linear":
        d0, d1 = g * h, g
    else:
        c, slope = candidate(x0, CANDIDATE)
        if CELL == "mingru":
            z, rest = sigmoid(x1)
            d0, d1 = g * z * slope, g * (c - h) * (z * rest)
        else:
            f, f_rest = sigmoid(x1)
            i, i_rest = sigmoid(x2)
            if CELL == "minlstm":
                f, i = quotient(x1, x2)
                common = g * (c - h) * (f * i)
                d1, d2 = -common * f_rest, common * i_rest
            else:
                d1, d2 = g * h * (f * f_rest), g * c * (i * i_rest)
            d0 = g * i * slope
    return d0, d1, d2
