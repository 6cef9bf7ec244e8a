"""The matrix products of a model alone: its linear maps, and what a recurrence of matrices multiplies."""

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from recurra.blocks import MLSTMBlock, XLSTMLargeBlock
from recurra.blocks.rwkv5 import TimeMix
from recurra.layers.aaren import AarenLayer
from recurra.ops import native
from recurra.parts import CausalConv, Embedding, HeadNorm

LINEAR, PROJECT = "products: nn.Linear", "products: ops.project"
BATCHED, MAPPED = "recurrence: torch.bmm", "recurrence: ops.project"


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


def memories(model: nn.Module) -> Iterator[tuple[int, int, int]]:
    """Heads, keys and values of a head, wherever a recurrence makes and reads matrices (`ops.outer`)."""
    for module in model.modules():
        if isinstance(module, TimeMix):
            heads, channels = module.norm.weight.shape
            yield heads, channels, channels
        elif isinstance(module, (MLSTMBlock, XLSTMLargeBlock)):
            heads, values = module.head_norm.weight.shape
            keys = module.config.key_width // heads if isinstance(module, XLSTMLargeBlock) else values
            yield heads, keys, values


class Batched:
    """y = q (k' v) of every memory in chunks of steps, forward and backward, as plain torch.bmm.

    Six products of keys times values a head and step, two forward and four backward: the least that making
    and reading the matrices takes, in chunks as long as the kernels' segments. Their own chunks are shorter;
    what the steps of one have with each other, decays and gates do not count.
    """

    def __init__(self, model: nn.Module, tokens: int, dtype: torch.dtype = torch.float32) -> None:
        steps = min(native.SEGMENT, tokens)
        chunks = -(-tokens // steps)
        shapes = [
            (heads * chunks, steps, width)
            for heads, keys, values in memories(model)
            for width in (keys, keys, values)
        ]
        self.leaves = [torch.randn(shape, dtype=dtype, requires_grad=True) for shape in shapes]
        self.dys = [torch.randn(shape, dtype=dtype) for shape in shapes[2::3]]

    def __call__(self) -> tuple[Tensor, ...]:
        """The gradients of every q, k and v."""
        rows = zip(self.leaves[::3], self.leaves[1::3], self.leaves[2::3], strict=True)
        return torch.autograd.grad([q @ (k.mT @ v) for q, k, v in rows], self.leaves, self.dys)


def as_maps(model: nn.Module) -> nn.ModuleList:
    """For every memory two linear maps of a head's keys to its values, which take the same six products.

    On rows of all heads together they are the fastest that products of so many numbers can be: a chunk's
    are smaller.
    """
    sizes = [(keys, values) for _, keys, values in memories(model) for _ in range(2)]
    return nn.ModuleList(nn.Linear(keys, values, bias=False) for keys, values in sizes)
