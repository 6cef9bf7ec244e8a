"""A model of which every process holds a share (FSDP2, arXiv 2304.11277): shared out, and whole again."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from recurra.extras import need

__all__ = ["share", "strategy", "whole", "whole_model"]


def strategy(devices: int) -> Any:
    """Fabric's strategy for it. Its other one, "fsdp", is for GPUs alone."""
    kind = need("lightning_fabric.strategies", "train").ModelParallelStrategy
    return kind(_shard, data_parallel_size=devices, tensor_parallel_size=1)


def _shard(model: Any, mesh: Any) -> nn.Module:
    fsdp, rows = need("torch.distributed.fsdp", "train"), mesh["data_parallel"]
    encoder = getattr(model, "encoder", None)
    for block in [*model.blocks, *(encoder.blocks if encoder else ())]:
        fsdp.fully_shard(block, mesh=rows)
    # Embedding and head; shared out again after each call, so that whoever looks at weights sees shares.
    fsdp.fully_shard(model, mesh=rows, reshard_after_forward=True)
    fsdp.register_fsdp_forward_method(model, "loss")
    sharded: nn.Module = model
    return sharded


def _shared(x: Tensor) -> bool:
    """Whether it is a DTensor, to ask which by its type would take a second of imports."""
    return hasattr(x, "full_tensor")


def whole(x: Any) -> Tensor:
    """All of a tensor; where it is shared out, every process has to ask for it."""
    full: Tensor = x.full_tensor() if _shared(x) else x
    return full


def share(x: Tensor, like: Any) -> Tensor:
    """What this process holds of a whole tensor: its share where `like` is shared out, or all of it."""
    if not _shared(like):
        return x
    distribute = need("torch.distributed.tensor", "train").distribute_tensor
    mine: Tensor = distribute(x.to(like.device), like.device_mesh, like.placements)
    return mine


def whole_model(model: Any, config: Mapping[str, Any]) -> Any:
    """The model; where it is shared out, a whole one of that config with its weights, on the CPU."""
    if not any(map(_shared, model.parameters())):
        return model
    with torch.device("meta"):
        copy = type(model).from_config(config)
    copy.load_state_dict({name: whole(x).cpu() for name, x in model.state_dict().items()}, assign=True)
    return copy
