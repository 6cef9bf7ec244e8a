"""The C++ kernels: finding the library, choosing the instruction set, calling it.

The library has a plain C ABI and knows neither Python nor torch. Every call passes one record of
8-byte fields (csrc/abi.h names them in the same order) packed by `struct`: the cheapest call there is.
"""

import ctypes
import importlib.util
import math
import os
import struct
import warnings
from functools import cache

import torch
from torch import Tensor

LEVELS = ("portable", "x86-64-v2", "x86-64-v3", "x86-64-v4")
DTYPES = {torch.float32: 0, torch.float64: 1, torch.bfloat16: 2, torch.complex64: 3, torch.complex128: 4}
# In which dtype the state of real inputs is kept.
STATES = {torch.float32: torch.float32, torch.float64: torch.float64, torch.bfloat16: torch.float32}
# The order is that of the `Gate` enumeration in csrc/abi.h.
GATES = {
    "linear": 0,
    "mingru_positive": 1,
    "mingru_linear": 2,
    "mingru_tanh": 3,
    "minlstm_positive": 4,
    "minlstm_linear": 5,
    "minlstm_tanh": 6,
    "minlstm_unnormalized_positive": 7,
    "minlstm_unnormalized_linear": 8,
    "minlstm_unnormalized_tanh": 9,
}
# The order is that of `CellKind` there.
CELLS = {"gru": 0, "lstm": 1}
_SCAN = struct.Struct("37q")
_CONV = struct.Struct("28q")
_CELL = struct.Struct("31q")
_MATVEC = struct.Struct("9q")
_LAYER_STEP = struct.Struct("32q 112x")  # a Matvec, and a Scan whose backward fields stay zero
_PRODUCT = struct.Struct("13q")
EXPORTS = (
    "scan_forward",
    "scan_backward",
    "conv_forward",
    "conv_backward",
    "cell_forward",
    "cell_backward",
    "matvec",
    "layer_step",
    "product",
)
# Below this many outputs a second thread costs more than it saves.
_PARALLEL = 1 << 14
# From this size on, memory is asked for on huge pages.
_HUGE = 1 << 23

_forked = False


def _after_fork() -> None:
    # libgomp's threads do not survive a fork, and waiting for them would never end.
    global _forked
    _forked = True


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


@cache
def _library() -> tuple[ctypes.CDLL | None, str]:
    """The library, and why it is missing where it is."""
    wanted = os.environ.get("RECURRA_ISA", "")
    if wanted == "none":
        return None, "switched off by RECURRA_ISA=none"
    if wanted and wanted not in LEVELS:
        raise ValueError(f"RECURRA_ISA must be none or one of {', '.join(LEVELS)}, got {wanted!r}")
    spec = importlib.util.find_spec("recurra._kernels")
    if spec is None or spec.origin is None:
        return None, "not built: no C++ compiler at install time"
    try:
        library = ctypes.CDLL(spec.origin)
    except OSError as e:
        return None, f"{spec.origin} does not load: {e}"
    for name in EXPORTS:
        call = getattr(library, f"recurra_{name}")
        call.argtypes, call.restype = [ctypes.c_char_p], None
    library.recurra_advise.argtypes, library.recurra_advise.restype = [ctypes.c_void_p, ctypes.c_int64], None
    library.recurra_select.argtypes, library.recurra_select.restype = [ctypes.c_int], ctypes.c_int
    library.recurra_select(LEVELS.index(wanted) if wanted else len(LEVELS) - 1)
    return library, ""


def select(level: str) -> str:
    """Use the kernels of this level, or of the best one below that this machine runs; returns which."""
    return LEVELS[_require_library().recurra_select(LEVELS.index(level))]


def level() -> str:
    """The level in use, or why there is none."""
    library, why = _library()
    return LEVELS[library.recurra_select(-1)] if library else f"none ({why})"


@torch.compiler.assume_constant_result  # type: ignore[untyped-decorator]
def available() -> bool:
    """True where the library is loaded; warns once where it is not."""
    return _loaded()


@cache
def _loaded() -> bool:
    library, why = _library()
    if library is None:
        warnings.warn(f"recurra runs without its native kernels, in plain torch: {why}", stacklevel=2)
    return library is not None


def takes(*tensors: Tensor) -> bool:
    """True if the kernels can take these tensors: on the CPU, of one known dtype."""
    dtype = tensors[0].dtype
    for x in tensors:
        if not x.is_cpu or x.dtype != dtype:
            return False
    return dtype in DTYPES and available()


def _require_library() -> ctypes.CDLL:
    library, why = _library()
    if library is None:
        raise RuntimeError(f"recurra has no native kernels: {why}")
    return library


def _require(*tensors: Tensor) -> ctypes.CDLL:
    library = _require_library()
    if not takes(*tensors):
        got = ", ".join(f"{x.dtype} on {x.device}" for x in tensors)
        raise RuntimeError(f"the native kernels take CPU tensors of one dtype of {list(DTYPES)}, got {got}")
    return library


def _threads(outputs: int) -> int:
    return 1 if outputs < _PARALLEL or _forked else torch.get_num_threads()


def _rows(x: Tensor) -> Tensor:
    """[B, T, ...] as [B, T, D] with neighbouring channels side by side in memory."""
    x = x if x.ndim == 3 else x.reshape(x.shape[0], x.shape[1], -1)
    x = x.resolve_conj() if x.is_complex() else x
    return x if x.stride(2) == 1 or x.shape[2] == 1 else x.contiguous()


def _view(x: Tensor) -> tuple[int, int, int]:
    return x.data_ptr(), x.stride(0), x.stride(1)


def _views(xs: tuple[Tensor, ...], width: int) -> list[int]:
    """Three views; one tensor of fused gates gives one view for each of its parts."""
    views = [_view(x) for x in xs]
    if len(xs) == 1:
        p, b, t = views[0]
        size = xs[0].element_size() * width
        views = [(p + i * size, b, t) for i in range(xs[0].shape[2] // width)]
    flat = [field for view in views for field in view]
    return flat + [0] * (9 - len(flat))


def time_major(x: Tensor) -> bool:
    """True for a [B, T, ...] view of memory laid out [T, B, ...]."""
    return x.shape[0] > 1 and x.stride(0) < x.stride(1)


def empty_rows(x: Tensor, width: int) -> Tensor:
    """Uninitialised [B, T, width] in the memory order of x."""
    batch, time = x.shape[:2]
    if time_major(x):
        return x.new_empty(time, batch, width).transpose(0, 1)
    return x.new_empty(batch, time, width)


def empty_as(x: Tensor) -> Tensor:
    """Uninitialised, of the shape of x: the layout of every output, on which compiled code relies."""
    return empty_rows(x, x.shape[2]) if x.ndim == 3 else x.new_empty(x.shape)


def lay_out(x: Tensor, like: Tensor) -> Tensor:
    """x in the layout of `empty_as(like)`."""
    out = empty_as(like)
    return x if x.stride() == out.stride() else out.copy_(x)


def _advise(x: Tensor) -> Tensor:
    """The same fresh tensor; a large one on huge pages where the system has them for the asking."""
    library = _library()[0]
    if library is not None and x.numel() * x.element_size() >= _HUGE:
        library.recurra_advise(x.data_ptr(), x.numel() * x.element_size())
    return x


def _pointer(x: Tensor | None) -> int:
    return 0 if x is None else x.data_ptr()


def scan(
    gate: str,
    inputs: tuple[Tensor, ...],
    h_0: Tensor,
    reset: Tensor | None,
    lengths: Tensor | None,
    reverse: bool,
) -> tuple[Tensor, Tensor]:
    """(y, h_n) of a gated linear recurrence. inputs: a and b, or one tensor of fused gates."""
    library = _require(*inputs)
    xs, h_0 = tuple(_rows(x) for x in inputs), h_0.contiguous()
    batch, time = xs[0].shape[:2]
    width = math.prod(h_0.shape[1:])
    y = _advise(empty_as(inputs[1]) if len(inputs) == 2 else empty_rows(inputs[0], width))
    if not y.numel():
        return y, h_0.clone()
    h_n = torch.empty_like(h_0)
    fields = (GATES[gate], DTYPES[y.dtype], reverse, _threads(y.numel()), batch, time, width)
    masks = (_pointer(reset), _pointer(lengths))
    record = _SCAN.pack(
        *fields, *masks, *_views(xs, width), *_view(_rows(y)), h_0.data_ptr(), h_n.data_ptr(), *(0,) * 14
    )
    library.recurra_scan_forward(record)
    return y, h_n


def scan_backward(
    gate: str,
    dy: Tensor,
    dh_n: Tensor,
    inputs: tuple[Tensor, ...],
    h_0: Tensor,
    y: Tensor,
    reset: Tensor | None,
    lengths: Tensor | None,
    reverse: bool,
) -> tuple[tuple[Tensor, ...], Tensor]:
    """Gradients of every input and of h_0, from those of y and h_n."""
    library = _require(*inputs, y)
    xs, h_0, dh_n = tuple(_rows(x) for x in inputs), h_0.contiguous(), dh_n.to(h_0.dtype).contiguous()
    batch, time = xs[0].shape[:2]
    width = math.prod(h_0.shape[1:])
    dxs = tuple(_advise(empty_as(x)) for x in inputs)
    if not y.numel():
        return dxs, dh_n.clone()
    dh_0, y, dy, rows = torch.empty_like(h_0), _rows(y), _rows(dy.to(y.dtype)), tuple(map(_rows, dxs))
    fields = (GATES[gate], DTYPES[y.dtype], reverse, _threads(y.numel()), batch, time, width)
    masks = (_pointer(reset), _pointer(lengths))
    states = (h_0.data_ptr(), 0, *_view(dy), dh_n.data_ptr())
    record = _SCAN.pack(
        *fields, *masks, *_views(xs, width), *_view(y), *states, *_views(rows, width), dh_0.data_ptr()
    )
    library.recurra_scan_backward(record)
    return dxs, dh_0


MAX_TAPS = 16  # kMaxTaps in csrc/conv.h


def conv(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    state: Tensor,
    reset: Tensor | None,
    lengths: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """(y, state_n) of the causal depthwise convolution; weight [D, K], state [B, K-1, D] in its dtype."""
    library = _require(x)
    y, x, state = _advise(empty_as(x)), _rows(x), state.contiguous()
    state_n = torch.empty_like(state)
    if not y.numel():
        return y, state.clone()
    taps = weight.to(state.dtype).t().contiguous()
    bias = None if bias is None else bias.to(state.dtype).contiguous()
    fields = (DTYPES[x.dtype], _threads(y.numel()), *x.shape, weight.shape[1])
    masks = (_pointer(reset), _pointer(lengths))
    tensors = (taps.data_ptr(), _pointer(bias), state.data_ptr(), state_n.data_ptr())
    library.recurra_conv_forward(_CONV.pack(*fields, *masks, *_view(x), *_view(y), *tensors, *(0,) * 10))
    return y, state_n


def conv_backward(
    dy: Tensor,
    dstate_n: Tensor,
    x: Tensor,
    weight: Tensor,
    state: Tensor,
    reset: Tensor | None,
    lengths: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Gradients of x, weight, bias and state."""
    library = _require(x)
    dx, x, dy, state = _advise(empty_as(x)), _rows(x), _rows(dy.to(x.dtype)), state.contiguous()
    dstate, dstate_n = torch.empty_like(state), dstate_n.to(state.dtype).contiguous()
    batch, _, width = x.shape
    taps = weight.to(state.dtype).t().contiguous()
    if not x.numel():
        return dx, weight.new_zeros(weight.shape), weight.new_zeros(width), dstate_n.clone()
    dweight, dbias = state.new_empty(batch, *taps.shape), state.new_empty(batch, width)
    fields = (DTYPES[x.dtype], _threads(x.numel()), *x.shape, weight.shape[1])
    masks = (_pointer(reset), _pointer(lengths))
    tensors = (taps.data_ptr(), 0, state.data_ptr(), 0, *_view(dy), dstate_n.data_ptr(), *_view(dx))
    grads = (dweight.data_ptr(), dbias.data_ptr(), dstate.data_ptr())
    library.recurra_conv_backward(_CONV.pack(*fields, *masks, *_view(x), 0, 0, 0, *tensors, *grads))
    return dx, dweight.sum(0).t().to(weight.dtype).contiguous(), dbias.sum(0).to(weight.dtype), dstate


def _cell_head(
    kind: str, x: Tensor, width: int, reset: Tensor | None, lengths: Tensor | None, reverse: bool
) -> tuple[int, ...]:
    batch, time, gates = x.shape
    fields = (CELLS[kind], DTYPES[x.dtype], reverse, _threads(batch * time * gates * width // 8))
    return *fields, batch, time, width, _pointer(reset), _pointer(lengths), *_view(x)


def _cell_scratch(x: Tensor, state: Tensor) -> Tensor:
    states, batch, width = state.shape
    gates = x.shape[2]
    return state.new_empty((gates + (gates // width + states + 1) * batch) * (-(-width // 32) * 32))


def cell(
    kind: str,
    gates: Tensor,
    weight: Tensor,
    bias: Tensor,
    state: Tensor,
    reset: Tensor | None,
    lengths: Tensor | None,
    reverse: bool,
) -> tuple[Tensor, Tensor]:
    """(y, state_n) of a memory-mixing cell; state [states, B, H], and weight and bias in its dtype."""
    library = _require(gates)
    width = state.shape[2]
    y, state = _advise(empty_rows(gates, width)), state.contiguous()
    if not y.numel():
        return y, state.clone()
    x, weight, bias = _rows(gates), weight.contiguous(), bias.contiguous()
    state_n, scratch = torch.empty_like(state), _cell_scratch(x, state)
    head = _cell_head(kind, x, width, reset, lengths, reverse)
    matrix, states = (weight.data_ptr(), bias.data_ptr()), (state.data_ptr(), state_n.data_ptr())
    record = _CELL.pack(*head, *matrix, *_view(y), *states, scratch.data_ptr(), *(0,) * 11)
    library.recurra_cell_forward(record)
    return y, state_n


def cell_backward(
    kind: str,
    cotangents: tuple[Tensor, Tensor],
    gates: Tensor,
    weight: Tensor,
    state: Tensor,
    mixed: tuple[Tensor, Tensor],
    masks: tuple[Tensor | None, Tensor | None],
    reverse: bool,
) -> tuple[Tensor, Tensor]:
    """Gradients of gates and state, from those of y and state_n.

    mixed: before [B, T, H], h_{t-1} as step t saw it, and before weight^T + bias, contiguous, which is
    overwritten by its own gradient.
    """
    library, (dy, dstate_n), (before, recurrent) = _require(gates), cotangents, mixed
    dgates, state, before = _advise(empty_as(gates)), state.contiguous(), before.contiguous()
    dstate_n = dstate_n.to(state.dtype).contiguous()
    if not before.numel():
        return dgates, dstate_n.clone()
    x, dy, weight, dstate = (
        _rows(gates),
        _rows(dy.to(gates.dtype)),
        weight.contiguous(),
        torch.empty_like(state),
    )
    memory, scratch = before.new_empty((len(state) - 1) * before.numel()), _cell_scratch(x, state)
    head = _cell_head(kind, x, state.shape[2], *masks, reverse)
    starts = (weight.data_ptr(), 0, 0, 0, 0, state.data_ptr(), 0, scratch.data_ptr())
    steps = (before.data_ptr(), recurrent.data_ptr(), memory.data_ptr())
    ends = (dstate_n.data_ptr(), dstate.data_ptr())
    library.recurra_cell_backward(_CELL.pack(*head, *starts, *_view(dy), *_view(dgates), *steps, *ends))
    return dgates, dstate


def _matvec_fields(x: Tensor, weight: Tensor, bias: Tensor | None, y: Tensor) -> tuple[int, ...]:
    outputs, inputs = weight.shape
    threads = _threads(outputs * inputs // 8)
    pointers = (x.data_ptr(), weight.data_ptr(), _pointer(bias), y.data_ptr())
    return DTYPES[x.dtype], threads, x.numel() // inputs, inputs, outputs, *pointers


def matvec(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """x W^T + bias for few rows; x [..., I], weight [O, I] and bias contiguous, of one dtype (unchecked)."""
    y = x.new_empty(*x.shape[:-1], weight.shape[0])
    _require_library().recurra_matvec(_MATVEC.pack(*_matvec_fields(x, weight, bias, y)))
    return y


def layer_step(gate: str, x: Tensor, weight: Tensor, bias: Tensor | None, h: Tensor) -> tuple[Tensor, Tensor]:
    """(y, h_n) of one step of a layer in one call: `matvec`, then the recurrence over its gates (unchecked).

    x [B, I], weight [parts * D, I], bias and h [B, D] contiguous; h in the state's dtype, and where that
    is the dtype of x, y is h_n.
    """
    (batch, width), dtype, outputs = h.shape, x.dtype, weight.shape[0]
    gates, h_n = x.new_empty(batch, outputs), torch.empty_like(h)
    y = h_n if h.dtype == dtype else x.new_empty(batch, width)
    at, skip = gates.data_ptr(), gates.element_size() * width
    record = _LAYER_STEP.pack(
        *_matvec_fields(x, weight, bias, gates),
        *(GATES[gate], DTYPES[dtype], 0, 1, batch, 1, width, 0, 0),
        *(at, outputs, 0, at + skip, outputs, 0, at + 2 * skip, outputs, 0),
        *(y.data_ptr(), width, 0, h.data_ptr(), h_n.data_ptr()),
    )
    _require_library().recurra_layer_step(record)
    return y, h_n


@torch.compiler.assume_constant_result  # type: ignore[untyped-decorator]
def prefers_product() -> bool:
    """True where `product` is faster than torch's own on this machine."""
    return available() and bool(_require_library().recurra_prefers_product())


def product(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """x W^T + bias in fp32; x [rows, I] and weight [O, I] of any strides."""
    library = _require(x, weight)
    (rows, depth), columns = x.shape, weight.shape[0]
    strips = 32 if weight.stride(0) == 1 else min(-(-columns // 32) * 32, 512)
    y, scratch = _advise(x.new_empty(rows, columns)), x.new_empty(depth * strips)
    threads = _threads(rows * columns)
    a = (x.data_ptr(), x.stride(0), x.stride(1))
    b = (weight.data_ptr(), weight.stride(1), weight.stride(0))
    rest = (_pointer(bias), y.data_ptr(), scratch.data_ptr())
    library.recurra_product(_PRODUCT.pack(threads, rows, columns, depth, *a, *b, *rest))
    return y
