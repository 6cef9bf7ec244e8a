"""Kernels of other houses that do the work of one of ours, for `gpu.py --kernels`, where they are installed.

Each is given its inputs as it wants them to lie in memory, before the clock starts; what it returns is turned
back to [batch, time, width], and compared.
"""

from collections.abc import Callable
from functools import partial
from importlib import import_module
from importlib.util import find_spec
from typing import Any, NamedTuple

import torch
from torch import Tensor

ALIKE = 0.05  # a kernel whose results are further from ours than that share of the largest does other work


class Peer(NamedTuple):
    """The kernel of ours it stands beside, where it is, how its inputs lie, and how it is called."""

    kernel: str
    module: str
    function: str
    arrange: Callable[..., list[Tensor]]
    call: Callable[..., Tensor]

    def begin(self, leaves: list[Tensor]) -> tuple[Callable[..., Tensor], list[Tensor]]:
        """What it computes, and of what, from the inputs of ours."""
        function = getattr(import_module(self.module), self.function)
        return partial(self.call, function), [x.contiguous() for x in self.arrange(*leaves)]


def installed(name: str) -> bool:
    """Whether its package is."""
    return find_spec(PEERS[name].module.partition(".")[0]) is not None


def difference(got: Tensor, want: Tensor) -> float:
    """The largest of all, over the largest that is wanted."""
    got, want = got.detach().float(), want.detach().float()
    return float((got - want).abs().max() / want.abs().max())


def compared(got: Tensor, want: Tensor) -> float:
    """Their difference. Raises ValueError where it is too large for the same work."""
    found = difference(got, want)
    if not found <= ALIKE:
        raise ValueError(f"another result than ours: it differs by {found:.2g} of the largest")
    return found


# ----------------------------------------------------------------------------------------------
# h = a h + b. HGRN takes the logarithm of a; accelerated-scan has neighbouring steps side by side.


def _logarithm(a: Tensor, b: Tensor, h_0: Tensor) -> list[Tensor]:
    return [b, a.float().log().to(a.dtype)]


def _first(function: Any, *inputs: Tensor) -> Tensor:
    y: Tensor = function(*inputs)[0]
    return y


def _turned(a: Tensor, b: Tensor, h_0: Tensor) -> list[Tensor]:
    return [a.mT, b.mT]


def _turn(function: Any, *inputs: Tensor) -> Tensor:
    y: Tensor = function(*inputs)
    return y.mT


# ----------------------------------------------------------------------------------------------
# Mamba, with neighbouring steps side by side.


def _channels(*leaves: Tensor) -> list[Tensor]:
    x, delta, B, C, z, A, D, bias, _ = leaves
    return [x.mT, delta.mT, A.float(), B.mT, C.mT, D.float(), z.mT, bias.float()]


def _selective(function: Any, *inputs: Tensor) -> Tensor:
    y: Tensor = function(*inputs, delta_softplus=True)
    return y.mT


# ----------------------------------------------------------------------------------------------
# mLSTM: heads before steps, f before its sigmoid, and a scale that cannot be chosen.


def _gated(q: Tensor, k: Tensor, v: Tensor, decay: Tensor, gate: Tensor, *state: Tensor) -> list[Tensor]:
    forget = -torch.expm1(-decay.double()).log()
    scaled = q * (0.5 * q.shape[-1] ** 0.5)
    return [x.transpose(1, 2) for x in (scaled, k, v, gate.float(), forget.float())]


def _mlstm(function: Any, *inputs: Tensor) -> Tensor:
    y: Tensor = function(*inputs, eps=0.0, autocast_kernel_dtype=inputs[0].dtype)
    return y.transpose(1, 2)


# ----------------------------------------------------------------------------------------------
# Cells: gates [B, T, parts, heads, C], weights [parts, heads, C, C]; all of one dtype.


def _parts(gates: Tensor, weight: Tensor, bias: Tensor, start: Tensor) -> list[Tensor]:
    heads, channels = weight.shape[0] if weight.ndim == 3 else 1, weight.shape[-1]
    square = weight.view(heads, -1, channels, channels).transpose(0, 1)
    x, b = gates.unflatten(-1, (-1, heads, channels)), bias.view(-1, heads, channels)
    return [x, square.to(x.dtype), b.to(x.dtype)]


def _gru_parts(*leaves: Tensor) -> list[Tensor]:
    """Of what comes from h: n first; its bias for n of the input is the fourth."""
    x, square, bias = _parts(*leaves)
    order = [2, 0, 1]
    return [x, square[order], torch.cat([bias[order], torch.zeros_like(bias[:1])])]


def _flashrnn(kind: str, backend: str, function: Any, *inputs: Tensor) -> Tensor:
    dtype = str(inputs[0].dtype).removeprefix("torch.")
    states, _ = function(*inputs, function=kind, backend=backend, dtype=dtype)
    h: Tensor = states[0].flatten(2)
    return h


def _cell(kind: str, backend: str) -> Peer:
    arrange = _gru_parts if kind == "gru" else _parts
    return Peer(kind, "flashrnn", "flashrnn", arrange, partial(_flashrnn, kind, backend))


_CHUNKWISE = "mlstm_kernels.torch.chunkwise.triton"
# Those that call a C++ compiler come last: it takes them a minute.
PEERS: dict[str, Peer] = {
    "fla chunk_hgrn": Peer("linear", "fla.ops.hgrn", "chunk_hgrn", _logarithm, _first),
    "fla fused_recurrent_hgrn": Peer("linear", "fla.ops.hgrn", "fused_recurrent_hgrn", _logarithm, _first),
    "accelerated_scan.scalar": Peer("linear", "accelerated_scan.scalar", "scan", _turned, _turn),
    "mamba_ssm selective_scan_fn": Peer(
        "selective", "mamba_ssm.ops.selective_scan_interface", "selective_scan_fn", _channels, _selective
    ),
    "mlstm_kernels xl_chunk": Peer(
        "outer gated", f"{_CHUNKWISE}_xl_chunk", "mlstm_chunkwise__xl_chunk", _gated, _mlstm
    ),
    "mlstm_kernels limit_chunk": Peer(
        "outer gated", f"{_CHUNKWISE}_limit_chunk", "mlstm_chunkwise__limit_chunk", _gated, _mlstm
    ),
    "flashrnn lstm, Triton": _cell("lstm", "triton_fused"),
    "flashrnn slstm, Triton": _cell("slstm", "triton_fused"),
    "accelerated_scan.warp": Peer("linear", "accelerated_scan.warp", "scan", _turned, _turn),
    "flashrnn lstm, CUDA": _cell("lstm", "cuda_fused"),
    "flashrnn slstm, CUDA": _cell("slstm", "cuda_fused"),
    "flashrnn gru, CUDA": _cell("gru", "cuda"),
}
