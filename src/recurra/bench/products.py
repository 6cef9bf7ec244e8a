"""The matrix products of a model alone: the linear maps of its layers, and nothing in between."""

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from recurra.layers.aaren import AarenLayer
from recurra.parts import CausalConv, Embedding, HeadNorm

LINEAR, PROJECT = "products: nn.Linear", "products: ops.project"


def matrices(model: nn.Module) -> Iterator[tuple[int, int, bool]]:
    """Rows, columns and bias of every matrix that a token is multiplied by."""
    for module in model.modules():
        if isinstance(module, AarenLayer):
            # Its query is known beforehand, so that keys need no product: one row of scores a head.
            bias = module.bias_ih is not None
            yield module.heads, module.input_size, bias
            yield module.hidden_size, module.input_size, bias
        elif not isinstance(module, (CausalConv, Embedding, HeadNorm)):
            # Products within heads, as sLSTM has them, and within fours of channels, mLSTM, do not count.
            yield from _own(module)


def _own(module: nn.Module) -> Iterator[tuple[int, int, bool]]:
    for name, p in module.named_parameters(recurse=False):
        if p.ndim == 2 and name.startswith("weight"):
            yield *p.shape, getattr(module, name.replace("weight", "bias"), None) is not None


class Products:
    """Forward and backward of a model's products, each on an input and an output gradient of its own.

    dtype bfloat16: under autocast, with weights in fp32.
    """

    def __init__(
        self, model: nn.Module, tokens: int, linear: type[nn.Linear], dtype: torch.dtype = torch.float32
    ) -> None:
        self.cast = torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16)
        sizes = list(matrices(model))
        self.maps = [linear(columns, rows, bias) for rows, columns, bias in sizes]
        self.xs = [torch.randn(tokens, n, dtype=dtype, requires_grad=True) for _, n, _ in sizes]
        self.dys = [torch.randn(tokens, n, dtype=dtype) for n, _, _ in sizes]
        self.leaves = [*self.xs, *(p for m in self.maps for p in m.parameters())]

    def _forward(self) -> list[Tensor]:
        with self.cast:
            return [m(x) for m, x in zip(self.maps, self.xs, strict=True)]

    @torch.no_grad()
    def forward(self) -> list[Tensor]:
        """The forward products alone, of which nothing is kept."""
        return self._forward()

    def __call__(self) -> None:
        """Run them."""
        for leaf in self.leaves:
            leaf.grad = None
        torch.autograd.backward(self._forward(), self.dys)
