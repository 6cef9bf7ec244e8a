"""A matrix in half or a quarter of fp32's bytes: a step of a model waits for its weights to be read."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

__all__ = ["QUANTIZED", "Quantized", "wide"]

QUANTIZED = {"bf16": torch.bfloat16, "int8": torch.int8}
# Columns that lie in one group (csrc/abi.h).
_GROUP = 64


class Quantized(nn.Module):
    """W [..., O, I] in the place of an fp32 parameter; x, y and all sums stay fp32. It takes no gradient.

    bf16: each number to nearest. int8: scale [..., O] = max |row| / 127 and numbers W / scale to nearest,
    so that a weight is off by half of its row's scale at most. Numbers lie in groups of 64 columns, in the
    order in which the kernels unpack them; `wide` gives the matrix back. Raises ValueError for numbers that
    are not finite, RuntimeError where it is to be saved: it is made anew of what was.
    """

    numbers: Tensor
    scale: Tensor | None

    def __init__(self, numbers: Tensor, scale: Tensor | None, inputs: int) -> None:
        super().__init__()
        self.inputs = inputs
        self.register_buffer("numbers", numbers)
        self.register_buffer("scale", scale)

    @classmethod
    def of(cls, weight: Tensor, kind: str) -> "Quantized":
        """The matrix W [..., O, I] in one of `QUANTIZED`."""
        weight, scale = weight.detach(), None
        if not weight.isfinite().all():
            raise ValueError(f"a weight {list(weight.shape)} must be finite to be kept as {kind}")
        if kind == "int8":
            scale = weight.abs().amax(-1) / 127
            # The scale of a row of denormals is not exact.
            weight = (weight / scale.where(scale > 0, 1)[..., None]).round().clamp(-127, 127)
        return cls(_packed(weight.to(QUANTIZED[kind])), scale, weight.shape[-1])

    @property
    def shape(self) -> torch.Size:
        return torch.Size((*self.numbers.shape[:-1], self.inputs))

    @property
    def ndim(self) -> int:
        return self.numbers.ndim

    @property
    def device(self) -> torch.device:
        return self.numbers.device

    @property
    def is_cpu(self) -> bool:
        return self.numbers.is_cpu

    @property
    def dtype(self) -> torch.dtype:
        """That of the matrix it stands for."""
        return torch.float32

    def numel(self) -> int:
        return self.shape.numel()

    def is_contiguous(self) -> bool:
        return self.numbers.is_contiguous()

    def __len__(self) -> int:
        return len(self.numbers)

    def __getitem__(self, index: Any) -> "Quantized":
        """Of axes in front of the columns alone."""
        return Quantized(self.numbers[index], None if self.scale is None else self.scale[index], self.inputs)

    def split(self, size: int) -> tuple["Quantized", ...]:
        """Pieces of so many of the first axis."""
        return tuple(self[i : i + size] for i in range(0, len(self), size))

    def wide(self) -> Tensor:
        """The matrix in fp32: four or two times the memory, and as long as writing it takes."""
        parts = 4 // self.numbers.element_size()
        groups = self.numbers.unflatten(-1, (-1, _GROUP // parts, parts))
        # In two passes: torch's product of int8 and fp32 takes five times as long.
        matrix: Tensor = groups.mT.flatten(-3)[..., : self.inputs].float()
        return matrix if self.scale is None else matrix.mul_(self.scale[..., None])

    def _save_to_state_dict(self, *_: Any) -> None:
        raise RuntimeError("quantized weights are not saved: save the model they were made of")

    def extra_repr(self) -> str:
        return f"{list(self.shape)}, {self.numbers.dtype}"


def _packed(numbers: Tensor) -> Tensor:
    """In groups of columns, the last filled up; of w words in a group word i holds columns i, w + i, ..."""
    parts = 4 // numbers.element_size()
    groups = pad(numbers, (0, -numbers.shape[-1] % _GROUP)).unflatten(-1, (-1, parts, _GROUP // parts))
    packed: Tensor = groups.mT.flatten(-3).contiguous()
    return packed


def wide(weight: Tensor | Quantized) -> Tensor:
    """The matrix itself."""
    return weight.wide() if isinstance(weight, Quantized) else weight
