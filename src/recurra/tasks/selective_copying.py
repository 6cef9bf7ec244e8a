"""Selective copying (arXiv 2312.00752, appendix E.1): tell the data without the noise in between.

Tokens 1 to 14 are data, 15 is noise, 0 asks. Sixteen data tokens, each equally likely, stand at random
places among `length` positions; then they are asked for one by one, in their order: length + 16 steps in
all. Numbered as in the code of arXiv 2410.01201.

>>> tokens, targets = sample(np.random.default_rng(3), rows=1, length=8, count=3)
>>> tokens
tensor([[10, 15, 15, 15, 11, 15, 15,  1,  0,  0,  0]])
>>> targets
tensor([[-100, -100, -100, -100, -100, -100, -100, -100,   10,   11,    1]])
"""

import numpy as np
import torch
from torch import Tensor

from recurra.models.cross_entropy import IGNORED
from recurra.tasks.sampled import Sampled

__all__ = ["TASK", "sample"]

ASK, NOISE = 0, 15


def sample(draw: np.random.Generator, rows: int, length: int, count: int = 16) -> tuple[Tensor, Tensor]:
    """Tokens and targets, both [rows, length + count]. Raises ValueError where length is below count."""
    if length < count:
        raise ValueError(f"context must be at least {count}, the tokens to copy, got {length}")
    places = np.sort(draw.random((rows, length)).argsort(axis=1)[:, :count], axis=1)
    data = draw.integers(ASK + 1, NOISE, (rows, count))
    tokens = np.full((rows, length + count), NOISE)
    np.put_along_axis(tokens, places, data, axis=1)
    tokens[:, length:] = ASK
    targets = np.full_like(tokens, IGNORED)
    targets[:, length:] = data
    return torch.from_numpy(tokens), torch.from_numpy(targets)


TASK = Sampled("selective_copying", sample, NOISE + 1)
