"""Parts of blocks beside other houses' of the same equation, where those are installed."""

from collections.abc import Callable
from importlib.util import find_spec
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from recurra.bench.contenders import Pass, Project, draw_input
from recurra.bench.models import BATCH, BOTH, FORWARD, TIMES, Calls, Say, Size, times
from recurra.bench.products import LINEAR, PROJECT, Products, matrices
from recurra.bench.report import Row
from recurra.bench.timing import Timing, interleave
from recurra.extras import need
from recurra.layers.slstm import heads_of
from recurra.ops.cell import slstm

MAMBA, TIME_MIX, S4D, AAREN = "Mamba block", "RWKV-4 time mix", "S4D layer", "Aaren layer"
CELL, SLSTM, MLSTM, LONG = "sLSTM cell", "sLSTM block", "mLSTM block", "mLSTM block, one long row"
COLUMNS = (
    "table",
    "part",
    "model",
    "width",
    "batch",
    "time",
    *TIMES,
    "over_linear",
    "over_project",
    "over_recurra",
    "not_run",
)


class TimeMix(nn.Module):
    """The time mix of an RWKV-4 block by itself, from a fresh start."""

    def __init__(self, block: Any) -> None:
        super().__init__()
        self.mix = block.time_mix

    def forward(self, x: Tensor) -> Tensor:
        """[B, T, D] -> [B, T, D]."""
        y: Tensor = self.mix(x, None, None, (None, None))[0]
        return y


class Cell(nn.Module):
    """The recurrence of an sLSTM block by itself, from a fresh start; the gates' inputs are given."""

    def __init__(self, block: Any) -> None:
        super().__init__()
        self.weight: nn.Parameter = block.weight_hh
        self.bias: nn.Parameter = block.bias

    def forward(self, x: Tensor) -> Tensor:
        """[B, T, 4 D] -> [B, T, D]."""
        return slstm(x, self.weight, self.bias)[0]


class VanillaCell(nn.Module):
    """The same in plain torch, as the authors of xLSTM have it."""

    def __init__(self, width: int) -> None:
        super().__init__()
        house = need("xlstm.blocks.slstm.cell", "test")
        config = house.sLSTMCellConfig(hidden_size=width, num_heads=heads_of(width, 0), backend="vanilla")
        self.cell = house.sLSTMCell_vanilla(config)

    def forward(self, x: Tensor) -> Tensor:
        """[B, T, 4 D] -> [B, T, D]."""
        y: Tensor = self.cell(x)[0]
        return y.transpose(1, 2).flatten(2)


class Convolution(nn.Module):
    """An S4D layer as it is trained elsewhere: its kernel over all steps, and a convolution by FFT.

    y = irfft(rfft(x) rfft(K)) + D x, K_l = 2 Re(sum_n C_n (exp(dt A_n) - 1) / A_n exp(dt A_n)^l)
    (arXiv 2206.11893, section 3.2); with the parameters of a layer of ours.
    """

    def __init__(self, layer: Any) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        """[B, T, D] -> [B, T, D]."""
        p = self.layer
        a = torch.complex(-p.log_a_real.exp(), p.a_imag)
        z = p.log_dt.exp()[:, None] * a
        powers = (z[..., None] * torch.arange(x.shape[1])).exp()
        kernel = 2 * torch.einsum("dn,dnt->td", torch.view_as_complex(p.c) * (z.exp() - 1) / a, powers).real
        total: Tensor = convolved(x, kernel) + p.skip * x
        return total


class KernelGiven(nn.Module):
    """The same but for its kernel, which is a parameter: what a convolution by FFT takes at the least."""

    def __init__(self, layer: Any, time: int) -> None:
        super().__init__()
        self.kernel = nn.Parameter(torch.randn(time, layer.width))
        self.skip: nn.Parameter = layer.skip

    def forward(self, x: Tensor) -> Tensor:
        """[B, T, D] -> [B, T, D]."""
        return convolved(x, self.kernel) + self.skip * x


def convolved(x: Tensor, kernel: Tensor) -> Tensor:
    """[B, T, D] with [T, D], causal, by FFT."""
    time = x.shape[1]
    spectrum = torch.fft.rfft(x, 2 * time, 1) * torch.fft.rfft(kernel, 2 * time, 0)
    y: Tensor = torch.fft.irfft(spectrum, 2 * time, 1)[:, :time]
    return y


def whole(block: Any) -> nn.Module:
    """All of a block."""
    made: nn.Module = block
    return made


class Rival(NamedTuple):
    """A part of a block of the table: which block, how to take it out, rows and steps of `inputs` widths."""

    model: str
    part: Callable[[Any], nn.Module] = whole
    batch: int = BATCH
    time: int = 512
    inputs: int = 1

    def build(self, width: int) -> nn.Module:
        """It, drawn anew."""
        return self.part(Size(self.model, width).build())


RIVALS: dict[str, Rival] = {
    MAMBA: Rival("mamba"),
    TIME_MIX: Rival("rwkv4", TimeMix),
    S4D: Rival("s4d", lambda block: block.layer, time=4096),
    AAREN: Rival("aaren", lambda block: block.layer),
    CELL: Rival("slstm", Cell, inputs=4),
    SLSTM: Rival("slstm"),
    MLSTM: Rival("mlstm"),
    LONG: Rival("mlstm", batch=1, time=2048),
}


def _mambapy(width: int) -> Any:
    house = need("mambapy.mamba", "test")
    return house.ResidualBlock(house.MambaConfig(d_model=width, n_layers=1))


def _mamba(width: int) -> Any:
    house = need("transformers.models.mamba.modeling_mamba", "test")
    return house.MambaBlock(house.MambaConfig(hidden_size=width, num_hidden_layers=1), 0)


def _rwkv(width: int) -> Any:
    house = need("transformers.models.rwkv.modeling_rwkv", "test")
    made = house.RwkvSelfAttention(house.RwkvConfig(hidden_size=width, num_hidden_layers=1))
    for p in made.parameters():  # it comes undrawn
        nn.init.uniform_(p, -0.1, 0.1)
    return made


def _slstm(width: int) -> Any:
    house = need("xlstm", "test")
    layer = house.sLSTMLayerConfig(embedding_dim=width, num_heads=heads_of(width, 0), backend="vanilla")
    return house.sLSTMBlock(house.sLSTMBlockConfig(layer, _num_blocks=1, _block_idx=0))


def _mlstm(width: int, time: int) -> Any:
    house = need("xlstm", "test")
    layer = house.mLSTMLayerConfig(embedding_dim=width, num_heads=4, context_length=time)
    return house.mLSTMBlock(house.mLSTMBlockConfig(mlstm=layer, _num_blocks=1, _block_idx=0))


class Peer(NamedTuple):
    """The package it is of, how to build it, and the part of ours that does the same."""

    package: str
    build: Callable[[int], nn.Module]
    rival: str


PEERS: dict[str, Peer] = {
    "mambapy": Peer("mambapy", _mambapy, MAMBA),
    "transformers Mamba": Peer("transformers", _mamba, MAMBA),
    "transformers RWKV": Peer("transformers", _rwkv, TIME_MIX),
    "FFT convolution": Peer("torch", lambda width: Convolution(RIVALS[S4D].build(width)), S4D),
    "FFT convolution, kernel given": Peer(
        "torch", lambda width: KernelGiven(RIVALS[S4D].build(width), RIVALS[S4D].time), S4D
    ),
    "xlstm sLSTM cell": Peer("xlstm", VanillaCell, CELL),
    "xlstm sLSTM": Peer("xlstm", _slstm, SLSTM),
    "xlstm mLSTM": Peer("xlstm", lambda width: _mlstm(width, RIVALS[MLSTM].time), MLSTM),
    "xlstm mLSTM, one long row": Peer("xlstm", lambda width: _mlstm(width, RIVALS[LONG].time), LONG),
}


def runs(rival: str, width: int) -> dict[str, Pass | Products]:
    """A part of ours, its products where it has some, and its installed peers."""
    batch, time, inputs = RIVALS[rival][2:]
    x, made = draw_input((batch, time, inputs * width)), RIVALS[rival].build(width)
    found: dict[str, Pass | Products] = {rival: Pass(made, x)}
    if any(matrices(made)):
        tokens = batch * time
        found |= {LINEAR: Products(made, tokens, nn.Linear), PROJECT: Products(made, tokens, Project)}
    for name, peer in PEERS.items():
        if peer.rival == rival and find_spec(peer.package):
            found[name] = Pass(peer.build(width), x)
    return found


def ratios(name: str, rival: str, timings: dict[str, Timing]) -> Row:
    """Of ours over its products, or of another over ours."""
    ms = timings[name].median
    if name != rival:
        return {"over_recurra": ms / timings[rival].median}
    others = {"over_linear": LINEAR, "over_project": PROJECT}
    return {ratio: ms / timings[other].median for ratio, other in others.items() if other in timings}


def beside(rival: str, part: str, width: int, repeats: int, say: Say) -> list[Row]:
    """Rows of one part of ours and of all that it is compared with; a missing package has one too."""
    calls: Calls = {
        name: made.forward if part == FORWARD else made for name, made in runs(rival, width).items()
    }
    timings = interleave(calls, repeats, say=lambda text: say(f"{rival}, {part}: {text}"))
    found = {name: {**times(t), **ratios(name, rival, timings)} for name, t in timings.items()}
    for name, peer in PEERS.items():
        if peer.rival == rival:
            found.setdefault(name, {"not_run": f"{peer.package} is not installed"})
    place = {"table": rival, "part": part, "width": width}
    place |= {"batch": RIVALS[rival].batch, "time": RIVALS[rival].time}
    return [{**place, "model": name, **row} for name, row in found.items()]


def run(width: int, repeats: int, threads: int, say: Say) -> list[Row]:
    """All rows, forward and with backward."""
    torch.set_num_threads(threads)
    return [
        row for name in RIVALS for part in (FORWARD, BOTH) for row in beside(name, part, width, repeats, say)
    ]
