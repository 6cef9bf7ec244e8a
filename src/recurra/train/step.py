"""One step of training: sequences in, one change of the weights out."""

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor

from recurra import state as states
from recurra.tasks.table import Task
from recurra.train import checkpoint
from recurra.train.config import TrainConfig
from recurra.train.memory import hold_memory
from recurra.train.optimizer import adamw
from recurra.train.shards import whole, whole_model

__all__ = ["Stepper"]


class Stepper:
    """The model and its optimizer on this process's device, and the states carried from step to step.

    size: positions of the last step, over all devices.
    """

    def __init__(self, model: Any, data: Task, config: TrainConfig, fabric: Any) -> None:
        hold_memory()
        self.plain, self.config, self.fabric, self.size = model, config, fabric, 0
        rows = config.batch * config.accumulate * fabric.world_size
        self.feed = data.feed(rows, config.context, config.seed, config.carry)
        self.shape = model.config
        self.model = fabric.setup_module(model)
        self.model.mark_forward_method("loss")
        # Of the parameters as the strategy left them.
        self.moments = adamw(model, config.lr, config.decay, fused=fabric.device.type == "cpu")
        self.optimizer = fabric.setup_optimizers(self.moments)
        self.model.train()
        self.carried: list[Any] = []

    def __call__(self, step: int, lr: float) -> tuple[float, float]:
        """Make step number `step`: mean loss in nats, and norm of the gradient before it was clipped.

        Raises RuntimeError where the gradient is not finite.
        """
        self._seed(step)
        losses, after = [], []
        for i, (inputs, targets, state) in enumerate(self._batches(step)):
            with self.fabric.no_backward_sync(self.model, enabled=i + 1 < self.config.accumulate):
                with self.fabric.autocast():  # which Fabric does itself only where it wraps the model
                    loss, end = self.model.loss(inputs, targets, state=state, smoothing=self.config.smoothing)
                self.fabric.backward(loss / self.config.accumulate)
            losses.append(loss.detach())
            after.append(states.detach(end) if self.config.carry else None)
        self.carried = after if self.config.carry else []
        norm = self._update(step, lr)
        return self.fabric.all_reduce(torch.stack(losses).mean()).item(), norm

    def whole(self) -> tuple[Any, dict[str, Tensor], list[Any]]:
        """The model, the optimizer's tensors and the carried states, put together from all processes."""
        model = whole_model(self.plain, self.shape)
        return model, checkpoint.moments(self.plain, self.moments), self.gathered()

    def gathered(self) -> list[Any]:
        """The carried states of all processes, one below the other."""
        if not self.carried or self.fabric.world_size == 1:
            return self.carried
        parts: list[Any] = [None] * self.fabric.world_size
        torch.distributed.all_gather_object(parts, states.to(self.carried, "cpu"))
        return states.concatenate(parts)

    def restore(self, gathered: list[Any]) -> None:
        """Take this process's rows of what `gathered` gave."""
        first = self.fabric.global_rank * self.config.batch
        mine = [states.select(state, slice(first, first + self.config.batch)) for state in gathered]
        self.carried = [states.to(state, self.fabric.device) for state in mine]

    def _seed(self, step: int) -> None:
        """Dropout's random numbers are a function of seed, step and process: none are to be saved."""
        mixed = np.random.SeedSequence((self.config.seed, step, self.fabric.global_rank))
        torch.manual_seed(int(mixed.generate_state(1, np.uint32)[0]))

    def _batches(self, step: int) -> list[tuple[Any, Tensor, Any]]:
        """This process's rows, a batch for each part of the accumulated gradient, with their states."""
        carried = [None] * self.config.accumulate if self.feed.fresh(step) else self.carried
        inputs, targets = self.feed.batch(step)
        self.size, parts = targets.numel(), range(self.config.accumulate)
        mine = states.apply(self._mine, (inputs, targets))
        return [(*states.apply(lambda x, i=i: x[i], mine), carried[i]) for i in parts]

    def _mine(self, rows: Tensor) -> Tensor:
        """Of the rows of all processes those of this one, [accumulate, batch, T]."""
        parts = (self.fabric.world_size, self.config.accumulate, self.config.batch)
        mine: Tensor = rows.unflatten(0, parts)[self.fabric.global_rank].to(self.fabric.device)
        return mine

    def _update(self, step: int, lr: float) -> float:
        """Clip and step; the norm of the gradient."""
        bound = self.config.clip or math.inf
        clip = self.fabric.clip_gradients
        norm = float(whole(clip(self.model, self.optimizer, max_norm=bound, error_if_nonfinite=False)))
        if not math.isfinite(norm) and self.config.precision != "16-mixed":  # which skips such a step
            raise RuntimeError(f"the gradient of step {step} is not finite: try a lower --lr")
        for group in self.moments.param_groups:
            group["lr"] = lr
        self.optimizer.step()
        self.optimizer.zero_grad()
        return norm
