"""Whether half precision saves time: not every processor that can multiply in it does so faster."""

import timeit

import torch

from recurra.ops.project import project

__all__ = ["advice"]

HALVES = {"bf16-mixed": torch.bfloat16, "bf16-true": torch.bfloat16, "16-mixed": torch.float16}
SIZE, REPEATS = 384, 5
# Below that it may as well be chance.
SLOWER = 1.25


def advice(precision: str, device: torch.device) -> str | None:
    """What one should know who trains so on this device; None where half precision is no slower there.

    It is measured, not looked up: with the same instructions one maker's bf16 has twice the rate of fp32,
    another's half.
    """
    if precision not in HALVES or device.type != "cpu":
        return None
    times = seconds(HALVES[precision]) / seconds(torch.float32)
    if times < SLOWER:
        return None
    return (
        f"precision {precision} saves memory here, not time: "
        f"a matrix product takes {times:.1f} times as long as in 32-true"
    )


@torch.no_grad()
def seconds(dtype: torch.dtype) -> float:
    """Of a matrix product, the shortest of a few."""
    x = torch.ones(SIZE, SIZE, dtype=dtype)
    return min(timeit.repeat(lambda: project(x, x), number=1, repeat=REPEATS))
