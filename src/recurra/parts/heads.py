"""How a width is divided into heads."""

import math

__all__ = ["head_channels"]

USUAL = 64


def head_channels(width: int, heads: int = 0, *, even: bool = False) -> int:
    """Channels of a head, where heads is 0 as near to 64 as an (even) divisor of the width can be, by ratio.

    A prime width is one head: of heads of one channel a norm leaves nothing. Raises ValueError where heads
    do not divide the width into (even) parts.
    """
    step = 2 if even else 1
    if heads < 0 or width % (step * max(heads, 1)):
        parts = " into even parts" if even else ""
        raise ValueError(f"heads must divide {width}{parts}, or be 0, got {heads}")
    if heads:
        return width // heads
    divisors = [c for c in range(step, width + 1, step) if width % c == 0]
    return min(divisors, key=lambda c: abs(math.log(c / USUAL)))
