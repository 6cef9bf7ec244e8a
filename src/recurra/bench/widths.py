"""Models of equal size: the search for their widths."""

from bisect import bisect_left
from collections.abc import Callable, Sequence

__all__ = ["nearest"]


def nearest(widths: Sequence[int], parameters: Callable[[int], int], want: int) -> int:
    """Of rising widths the one with nearest to `want` parameters, which rise with it."""
    at = bisect_left(widths, want, key=parameters)
    return min(widths[max(at - 1, 0) : at + 1], key=lambda width: abs(parameters(width) - want))
