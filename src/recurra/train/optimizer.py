"""AdamW and its learning rate."""

import math
import re

import torch
from torch import nn

__all__ = ["adamw", "rate"]

# Gates: decay would pull them to z = 1/2, a memory of two steps.
GATES = {"weight_ih", "bias_ih"}
# Poles of a state space: decay would pull them to one time scale.
POLES = {"log_a_real", "a_imag", "rank_one", "A_log"}
# What torch.nn.LSTM puts behind the names of its weights.
PLACE = re.compile(r"_l\d+(_reverse)?$")
FLOOR = 0.1


def decays(name: str, parameter: nn.Parameter) -> bool:
    """Whether weight decay applies: to matrices, but not to those that make the gates or the poles."""
    return parameter.ndim >= 2 and PLACE.sub("", name.rsplit(".", 1)[-1]) not in GATES | POLES


def adamw(model: nn.Module, lr: float, decay: float, fused: bool = False) -> torch.optim.AdamW:
    """AdamW in two groups: with decay, and without for gates, poles, norms and biases."""
    named = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    groups = [
        {"params": [p for name, p in named if decays(name, p)], "weight_decay": decay},
        {"params": [p for name, p in named if not decays(name, p)], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW([g for g in groups if g["params"]], lr=lr, betas=(0.9, 0.99), fused=fused)


def rate(step: int, warmup: int, progress: float) -> float:
    """Share of the peak learning rate: rising over `warmup` steps, then a cosine in progress (0 to 1)."""
    rise = min((step + 1) / (warmup + 1), 1.0)
    fall = FLOOR + (1 - FLOOR) * (1 + math.cos(math.pi * min(progress, 1.0))) / 2
    return rise * fall
