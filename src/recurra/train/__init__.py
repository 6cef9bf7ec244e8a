"""The training loop: steps, optimizer, schedule, checkpoints, devices, logs."""

from recurra.train.config import TrainConfig
from recurra.train.loop import fit

__all__ = ["TrainConfig", "fit"]
