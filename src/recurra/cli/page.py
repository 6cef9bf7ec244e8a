"""What `lens`, `steer` and `memory` leave to look at: one HTML file, and the same figures as PNG."""

import sys
from collections.abc import Sequence
from pathlib import Path

from recurra.bench.report import write_text
from recurra.interp.figures import Figure
from recurra.interp.pages import Content, page
from recurra.interp.plot import draw

__all__ = ["leave"]


def leave(path: Path, title: str, parts: Sequence[Content]) -> None:
    """path.html and path.png; without matplotlib one line says that there is no PNG."""
    write_text(path.with_suffix(".html"), page(title, parts))
    try:
        draw(path.with_suffix(".png"), [part for part in parts if isinstance(part, Figure)])
    except RuntimeError as e:
        print(f"recurra: no picture: {e}", file=sys.stderr)
