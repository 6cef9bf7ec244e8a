"""What a run tells while it trains: one line that renews itself, or now and then a plain one."""

import math
import sys
import time

__all__ = ["Line", "clock"]

PATIENCE = 10.0


def clock(seconds: float) -> str:
    """Seconds as h:mm:ss or m:ss."""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02}:{rest:02}" if minutes >= 60 else f"{minutes}:{rest:02}"


class Line:
    """One line on stderr; where that is no terminal, a plain one every ten seconds."""

    def __init__(self) -> None:
        self.terminal, self.last = sys.stderr.isatty(), -math.inf

    def show(self, text: str) -> None:
        """What holds only now."""
        if self.terminal:
            print(f"\r\x1b[K{text}", end="", file=sys.stderr, flush=True)
        elif time.monotonic() - self.last >= PATIENCE:
            self.keep(text)

    def keep(self, text: str) -> None:
        """What is to stay."""
        print(f"\r\x1b[K{text}" if self.terminal else text, file=sys.stderr, flush=True)
        self.last = time.monotonic()
