"""The layers that are timed side by side, each by name, from width to width and batch first."""

from collections.abc import Callable
from importlib.util import find_spec
from typing import NamedTuple

import torch
from torch import Tensor, nn

import recurra
from recurra import ops
from recurra.bench.baselines import MINGRU, MINLSTM, CellLoop
from recurra.extras import need


class Project(nn.Linear):
    """nn.Linear through the product that recurra's layers use."""

    def forward(self, x: Tensor) -> Tensor:
        """[..., I] -> [..., O]."""
        return ops.project(x, self.weight, self.bias)


def _peer(name: str) -> Callable[[int], nn.Module]:
    def build(width: int) -> nn.Module:
        module: nn.Module = getattr(need(f"minGRU_pytorch.{name}", "bench"), name)(width)
        return module

    return build


class Contender(NamedTuple):
    """How to build it, and what it is compared with: the layer of recurra that replaces it."""

    build: Callable[[int], nn.Module]
    rival: str


CONTENDERS: dict[str, Contender] = {
    MINGRU: Contender(lambda d: recurra.MinGRU(d, d, batch_first=True), MINGRU),
    "its GEMMs (D -> 2D)": Contender(lambda d: nn.Linear(d, 2 * d), MINGRU),
    "ops.project (D -> 2D)": Contender(lambda d: Project(d, 2 * d), MINGRU),
    "nn.GRU": Contender(lambda d: nn.GRU(d, d, batch_first=True), MINGRU),
    "GRUCell loop": Contender(lambda d: CellLoop(nn.GRUCell, d), MINGRU),
    "minGRU-pytorch minGRU": Contender(_peer("minGRU"), MINGRU),
    MINLSTM: Contender(lambda d: recurra.MinLSTM(d, d, batch_first=True), MINLSTM),
    "its GEMMs (D -> 3D)": Contender(lambda d: nn.Linear(d, 3 * d), MINLSTM),
    "ops.project (D -> 3D)": Contender(lambda d: Project(d, 3 * d), MINLSTM),
    "nn.LSTM": Contender(lambda d: nn.LSTM(d, d, batch_first=True), MINLSTM),
    "minGRU-pytorch minLSTM": Contender(_peer("minLSTM"), MINLSTM),
}
GEMMS = {MINGRU: "its GEMMs (D -> 2D)", MINLSTM: "its GEMMs (D -> 3D)"}
# Numbers per (batch, step, channel) that the recurrence alone must read or write: forward the gates and
# h; backward the gates, h, the gradient of h, and the gradient of the gates. Parameters are nothing beside.
TOUCHED = {MINGRU: (2 + 1) + (2 + 1 + 1 + 2), MINLSTM: (3 + 1) + (3 + 1 + 1 + 3)}


def absent(name: str) -> str:
    """Why this contender can't run here, empty where it can."""
    if name.startswith("minGRU-pytorch") and find_spec("minGRU_pytorch") is None:
        return "minGRU-pytorch is not installed"
    return ""


class Pass:
    """One forward and backward pass with fresh gradients, under a fixed dense gradient of the output."""

    def __init__(self, module: nn.Module, x: Tensor) -> None:
        draw = torch.Generator().manual_seed(1)
        self.module, self.x = module, x
        self.leaves = [x, *module.parameters()]
        width = self._forward(x[:1, :2]).shape[-1]
        self.dy = torch.randn(*x.shape[:2], width, generator=draw)

    def _forward(self, x: Tensor) -> Tensor:
        y = self.module(x)
        out: Tensor = y[0] if isinstance(y, tuple) else y
        return out

    @torch.no_grad()
    def forward(self) -> Tensor:
        """The forward pass alone, of which nothing is kept."""
        return self._forward(self.x)

    def __call__(self) -> None:
        """Run it."""
        for leaf in self.leaves:
            leaf.grad = None
        self._forward(self.x).backward(self.dy)


def begin(name: str, x: Tensor) -> Pass:
    """A pass of the contender of that name."""
    torch.manual_seed(0)
    return Pass(CONTENDERS[name].build(x.shape[-1]), x)


def draw_input(shape: tuple[int, int, int]) -> Tensor:
    """A standard normal input [B, T, D] that wants a gradient, as a layer inside a network sees it."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0), requires_grad=True)
