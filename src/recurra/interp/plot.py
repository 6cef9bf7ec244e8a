"""Maps and curves as a PNG."""

import math
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from recurra.extras import need
from recurra.interp.figures import Curves, Figure, Map, share

__all__ = ["draw"]

# Inches of a picture across, of a row of a map, and of curves.
_WIDTH, _ROW, _CURVES = 13.0, 0.22, 4.0
# Columns of a map beyond which its cells have no room for text.
_TEXTS = 80


def draw(path: Path, figures: Sequence[Figure]) -> None:
    """One panel a figure, one below the other. Raises RuntimeError without matplotlib."""
    heights = [_CURVES if isinstance(f, Curves) else 1.2 + _ROW * len(f.rows) for f in figures]
    picture = need("matplotlib.figure", "interp").Figure((_WIDTH, sum(heights)), layout="constrained")
    panels = picture.subplots(len(figures), height_ratios=heights, squeeze=False)[:, 0]
    for axes, figure in zip(panels, figures, strict=True):
        axes.set_title(figure.title, fontsize=10, parse_math=False)
        if isinstance(figure, Curves):
            _curves(axes, figure)
        else:
            _map(axes, figure)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph", UserWarning)  # a box stands for what the font lacks
        picture.savefig(path, dpi=100)


def _map(axes: Any, figure: Map) -> None:
    parts = [[share(cell.value, figure) for cell in line] for line in figure.cells]
    values = [[math.nan if part is None else part for part in line] for line in parts]
    signed = figure.low < 0
    axes.imshow(
        values, aspect="auto", cmap="RdBu" if signed else "Blues", vmin=-1.6 if signed else 0, vmax=1.6
    )
    axes.set_xticks(range(len(figure.columns)), figure.columns, fontsize=7, parse_math=False)
    axes.set_yticks(range(len(figure.rows)), figure.rows, fontsize=7, parse_math=False)
    for y, line in enumerate(figure.cells if len(figure.columns) <= _TEXTS else ()):
        for x, cell in enumerate(line):
            text = axes.text(x, y, cell.text, fontsize=6, ha="center", va="center", clip_on=True)
            text.set(parse_math=False, in_layout=False)


def _curves(axes: Any, figure: Curves) -> None:
    for name, line in figure.known.items():
        points = [(p.x, p.y) for p in line]
        axes.plot(*(zip(*points, strict=True) if points else ((), ())), "o-", markersize=3, label=name)
    if figure.log:
        axes.set_xscale("log")
        axes.minorticks_off()
    axes.set_xticks(figure.ticks, [f"{x:g}" for x in figure.ticks])
    axes.grid(axis="y", alpha=0.4)
    axes.set_xlabel(figure.x)
    axes.set_ylabel(figure.y)
    if figure.lines:
        for text in axes.legend(fontsize=7, loc="center left", bbox_to_anchor=(1, 0.5)).get_texts():
            text.set_parse_math(False)
