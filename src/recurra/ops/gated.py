"""minGRU and minLSTM: the linear recurrence with its gates computed inside the loop.

"Were RNNs All We Needed?" (arXiv 2410.01201), sections 3.1 and 3.2. Nothing is written to memory but
the output; the backward pass computes the gates again. On devices without such a kernel the same
gates are computed in plain torch, in front of `linear`.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from recurra.ops import kernels, native
from recurra.ops.linear import recur, start, state_dtype
from recurra.ops.masks import check
from recurra.ops.project import few_rows, project
from recurra.ops.quantized import Quantized
from recurra.ops.registry import define, pullback, transforms_active, unobserved
from recurra.state import LinearState

__all__ = ["CANDIDATES", "mingru", "mingru_gates", "mingru_step", "minlstm", "minlstm_gates", "minlstm_step"]


def positive(k: Tensor) -> Tensor:
    """g(k) = k + 0.5 where k >= 0, sigmoid(k) elsewhere; positive everywhere (appendix B.2.1)."""
    return torch.where(k >= 0, k + 0.5, k.sigmoid())


CANDIDATES: dict[str, Callable[[Tensor], Tensor]] = {
    "positive": positive,
    "linear": lambda k: k,
    "tanh": torch.tanh,
}


def _parts(gates: Tensor, count: int) -> tuple[Tensor, ...]:
    return gates.to(state_dtype(gates.dtype)).chunk(count, -1)


def mingru_gates(gates: Tensor, candidate: str = "positive") -> tuple[Tensor, Tensor]:
    """(a, b) of h = a h + b from [..., 2D] = [candidate, z]: a = 1 - sigmoid(z), b = sigmoid(z) c."""
    k, z = _parts(gates, 2)
    return (-z).sigmoid(), z.sigmoid() * CANDIDATES[candidate](k)


def minlstm_gates(
    gates: Tensor, candidate: str = "positive", normalized: bool = True
) -> tuple[Tensor, Tensor]:
    """(a, b) from [..., 3D] = [candidate, f, i]: a = f, b = i c, with f/(f+i), i/(f+i) if normalized.

    The quotient is taken in the logarithm, so that two closed gates give no 0/0.
    """
    k, f, i = _parts(gates, 3)
    c = CANDIDATES[candidate](k)
    if not normalized:
        return f.sigmoid(), i.sigmoid() * c
    d = logsigmoid(f) - logsigmoid(i)
    return d.sigmoid(), (-d).sigmoid() * c


class Fusion(NamedTuple):
    """A row of gates: how many parts the fused tensor has, and what they are in plain torch."""

    parts: int
    gates: Callable[[Tensor], tuple[Tensor, Tensor]]


FUSIONS: dict[str, Fusion] = {
    f"{cell}_{candidate}": Fusion(parts, partial(gates, candidate=candidate))
    for candidate in CANDIDATES
    for cell, parts, gates in (
        ("mingru", 2, mingru_gates),
        ("minlstm", 3, minlstm_gates),
        ("minlstm_unnormalized", 3, partial(minlstm_gates, normalized=False)),
    )
}


def minlstm_fusion(candidate: str, normalized: bool) -> str:
    """The row of FUSIONS that this kind of minLSTM is."""
    return f"minlstm_{candidate}" if normalized else f"minlstm_unnormalized_{candidate}"


def gated_step(gates: Tensor, state: LinearState, fusion: str) -> tuple[Tensor, LinearState]:
    """One step h_t = a_t h_{t-1} + b_t from gates [B, parts * D]: the definition."""
    a, b = FUSIONS[fusion].gates(gates)
    h = a * state.h + b
    return h.to(gates.dtype), LinearState(h)


def mingru_step(gates: Tensor, state: LinearState, candidate: str = "positive") -> tuple[Tensor, LinearState]:
    """h_t = (1 - z_t) h_{t-1} + z_t c_t: `gated_step` by the name of its equation."""
    return gated_step(gates, state, f"mingru_{candidate}")


def minlstm_step(
    gates: Tensor, state: LinearState, candidate: str = "positive", normalized: bool = True
) -> tuple[Tensor, LinearState]:
    """h_t = f_t h_{t-1} + i_t c_t: `gated_step` by the name of its equation."""
    return gated_step(gates, state, minlstm_fusion(candidate, normalized))


def gated_open(
    gates: Tensor, h_0: Tensor, reset: Tensor | None, lengths: Tensor | None, fusion: str, reverse: bool
) -> tuple[Tensor, Tensor]:
    """Plain torch: the gates are written out, `linear` does the rest. Differentiable any number of times."""
    a, b = FUSIONS[fusion].gates(gates)
    h, h_n = recur(a, b, h_0, reset, lengths, reverse)
    return h.to(gates.dtype), h_n


def gated_native(
    gates: Tensor, h_0: Tensor, reset: Tensor | None, lengths: Tensor | None, fusion: str, reverse: bool
) -> tuple[Tensor, Tensor]:
    """The C++ loop. Raises RuntimeError where the native library is missing or can't take the input."""
    return native.scan(fusion, (gates,), h_0, reset, lengths, reverse)


def gated_triton(
    gates: Tensor, h_0: Tensor, reset: Tensor | None, lengths: Tensor | None, fusion: str, reverse: bool
) -> tuple[Tensor, Tensor]:
    """The Triton kernel, for gates on a GPU."""
    y, h_n = kernels.scan(fusion, (gates,), h_0, reset, lengths, reverse)
    return y, h_n


def _backward_by(
    library: Any,
    dy: Tensor,
    dh_n: Tensor,
    gates: Tensor,
    h_0: Tensor,
    y: Tensor,
    reset: Tensor | None,
    lengths: Tensor | None,
    fusion: str,
    reverse: bool,
) -> tuple[Tensor, Tensor]:
    (dgates,), dh_0 = library.scan_backward(fusion, dy, dh_n, (gates,), h_0, y, reset, lengths, reverse)
    return dgates, dh_0


def _fake(gates: Tensor, h_0: Tensor, *_: Any) -> tuple[Tensor, Tensor]:
    return native.empty_rows(gates, h_0.shape[-1]), h_0.new_empty(h_0.shape)


def _setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    gates, h_0, reset, lengths, *ctx.how = inputs
    ctx.save_for_backward(gates, h_0, output[0], reset, lengths)


def _backward(ctx: Any, dy: Tensor, dh_n: Tensor) -> tuple[Tensor | None, ...]:
    return (*BACKWARD(dy, dh_n, *ctx.saved_tensors, *ctx.how), None, None, None, None)


def _setup_twice(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    dy, dh_n, gates, h_0, _, reset, lengths, *ctx.how = inputs
    ctx.save_for_backward(dy, dh_n, gates, h_0, reset, lengths)


def _backward_twice(ctx: Any, *cotangents: Tensor) -> tuple[Tensor | None, ...]:
    *inputs, reset, lengths = ctx.saved_tensors

    def first(dy: Tensor, dh_n: Tensor, gates: Tensor, h_0: Tensor) -> tuple[Tensor, ...]:
        return pullback(lambda g, h: gated_open(g, h, reset, lengths, *ctx.how), (gates, h_0), (dy, dh_n))

    # y is a function of the other inputs here, computed again: nothing flows through it.
    return (*pullback(first, tuple(inputs), cotangents), *(None,) * 5)


_REST = "Tensor? reset, Tensor? lengths, str fusion, bool reverse"
OP = define(
    f"gated(Tensor gates, Tensor h_0, {_REST}) -> (Tensor, Tensor)",
    fake=_fake,
    setup=_setup,
    backward=_backward,
    cpu=gated_native,
    cuda=gated_triton,
)
BACKWARD = define(
    f"gated_backward(Tensor dy, Tensor dh_n, Tensor gates, Tensor h_0, Tensor y, {_REST})"
    " -> (Tensor, Tensor)",
    fake=lambda dy, dh_n, gates, h_0, *_: (native.empty_as(gates), h_0.new_empty(h_0.shape)),
    setup=_setup_twice,
    backward=_backward_twice,
    cpu=partial(_backward_by, native),
    cuda=partial(_backward_by, kernels),
)


def _gated(
    gates: Tensor,
    state: LinearState | None,
    reset: Tensor | None,
    lengths: Tensor | None,
    fusion: str,
    reverse: bool,
) -> tuple[Tensor, LinearState]:
    parts = FUSIONS[fusion].parts
    if gates.ndim != 3 or gates.shape[-1] % parts or not gates.is_floating_point():
        got = f"{gates.dtype} {list(gates.shape)}"
        raise ValueError(f"gates must be floating point [batch, time, {parts} * width], got {got}")
    reset, lengths = check(gates.shape[0], gates.shape[1], gates.device, reset, lengths)
    h_0 = start(state, gates[..., : gates.shape[-1] // parts])
    fused = native.takes(gates) or kernels.takes(gates)
    form = OP if fused and not transforms_active() else gated_open
    y, h_n = form(gates, h_0, reset, lengths, fusion, reverse)
    return y, LinearState(h_n)


def layer_step(
    x: Tensor, weight: Tensor | Quantized, bias: Tensor | None, state: LinearState, fusion: str
) -> tuple[Tensor, LinearState]:
    """`gated_step` of x W^T + bias; where nothing watches, in one call of the kernels.

    x [B, I]; weight [parts * D, I]; state.h [B, D] in at least fp32.
    """
    h = state.h
    kept = h.is_contiguous() and h.dtype == native.STATES.get(x.dtype)
    if kept and few_rows(x, weight, bias) and unobserved(x, weight, bias, h):
        y, h_n = native.layer_step(fusion, x, weight, bias, h)
        return y, LinearState(h_n)
    return gated_step(project(x, weight, bias), state, fusion)


def _known(candidate: str) -> str:
    if candidate not in CANDIDATES:
        raise ValueError(f"candidate must be one of {', '.join(CANDIDATES)}, got {candidate!r}")
    return candidate


def mingru(
    gates: Tensor,
    state: LinearState | None = None,
    reset: Tensor | None = None,
    lengths: Tensor | None = None,
    *,
    candidate: str = "positive",
    reverse: bool = False,
) -> tuple[Tensor, LinearState]:
    """h_t = (1 - z_t) h_{t-1} + z_t g(k_t), z_t = sigmoid(zeta_t) (arXiv 2410.01201, section 3.1).

    gates [B, T, 2D] = [k, zeta], linear in x_t alone; state.h [B, D], of any sign; candidate g:
    `positive` (the paper's), `linear` or `tanh`; reset, lengths as in `ops.masks`. Returns h
    [B, T, D] in the dtype of the gates and the last state in at least fp32.
    Departs from the paper in computing in linear space: faster, and 600 times more exact at T = 4096.
    Raises ValueError that names the argument for a wrong shape, dtype or device.
    """
    return _gated(gates, state, reset, lengths, f"mingru_{_known(candidate)}", reverse)


def minlstm(
    gates: Tensor,
    state: LinearState | None = None,
    reset: Tensor | None = None,
    lengths: Tensor | None = None,
    *,
    candidate: str = "positive",
    normalized: bool = True,
    reverse: bool = False,
) -> tuple[Tensor, LinearState]:
    """h_t = f'_t h_{t-1} + i'_t g(k_t), f = sigmoid(phi_t), i = sigmoid(iota_t) (section 3.2).

    gates [B, T, 3D] = [k, phi, iota]; normalized: f' = f/(f+i), i' = i/(f+i), else f' = f, i' = i.
    The rest as `mingru`.
    """
    fusion = minlstm_fusion(_known(candidate), normalized)
    return _gated(gates, state, reset, lengths, fusion, reverse)
