"""What `reset` and `lengths` mean, said once in plain torch for every op.

reset [B, T], bool: True at t forgets everything before x_t is read: a cut between t - 1 and t. Read
backwards, the cut before step 0 lies behind the last step taken: it leaves the final state alone.
lengths [B], integer: row b ends after lengths[b] steps; its state is held from there, its outputs
beyond are zero, and the reverse direction starts there.
"""

import torch
from torch import Tensor

from recurra.ops.registry import transforms_active


def may_look(device: torch.device) -> bool:
    """Whether values can be looked at: it would stop a GPU's queue and break a traced or mapped graph."""
    return device.type == "cpu" and not torch.compiler.is_compiling() and not transforms_active()


def check(
    batch: int, time: int, device: torch.device, reset: Tensor | None, lengths: Tensor | None
) -> tuple[Tensor | None, Tensor | None]:
    """Validate both masks; returns them contiguous, lengths as int64 on the device of the input."""
    if reset is not None:
        if reset.dtype != torch.bool or tuple(reset.shape) != (batch, time):
            got = f"{reset.dtype} {list(reset.shape)}"
            raise ValueError(f"reset must be torch.bool [batch, time] = [{batch}, {time}], got {got}")
        if reset.device != device:
            raise ValueError(f"reset is on {reset.device}, the input on {device}")
        reset = reset.contiguous()
    if lengths is not None:
        if lengths.is_floating_point() or lengths.dtype == torch.bool or tuple(lengths.shape) != (batch,):
            got = f"{lengths.dtype} {list(lengths.shape)}"
            raise ValueError(f"lengths must be integers [batch] = [{batch}], got {got}")
        lengths = lengths.to(device=device, dtype=torch.int64).contiguous()
        if may_look(device) and batch:  # elsewhere kernels clamp
            low, high = int(lengths.min()), int(lengths.max())
            if low < 0 or high > time:
                raise ValueError(f"lengths must lie in 0..{time} (time), got {low}..{high}")
    return reset, lengths


def cuts(reset: Tensor | None, lengths: Tensor | None, reverse: bool) -> Tensor | None:
    """[B, T] bool: the state is forgotten before step t is taken, in the order of processing.

    Read backwards, the same cut lies before step t - 1 is taken; a reset in the padding is none.
    """
    if reset is None:
        return None
    alive = living(lengths, reset.shape[1])
    cut = reset if alive is None else reset & alive
    if reverse:
        cut = torch.cat([cut[:, 1:], torch.zeros_like(cut[:, :1])], 1)
    return cut


def spoilt(bad: Tensor, cut: Tensor) -> Tensor:
    """[B, T] bool: some step since the last cut is bad, the step itself included; both [B, T] bool."""
    count = bad.long().cumsum(1)
    return count > torch.where(cut, count - bad.long(), 0).cummax(1).values


def living(lengths: Tensor | None, time: int) -> Tensor | None:
    """[B, T] bool: step t belongs to its row."""
    if lengths is None:
        return None
    return torch.arange(time, device=lengths.device) < lengths[:, None]


def widen(mask: Tensor, like: Tensor) -> Tensor:
    """A mask [B, T] (or [B]) with singleton axes up to the rank of `like`."""
    return mask.reshape(mask.shape + (1,) * (like.ndim - mask.ndim))
