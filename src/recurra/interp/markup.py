"""Maps and curves as HTML: what is under the pointer, or has the focus, is told in a bar below the page.

Arrow keys go from cell to cell and from point to point. The page needs no network and no other file.
"""

import html
import math
from collections.abc import Iterator, Sequence

from recurra.interp.figures import Cell, Curves, Figure, Map, Point, share

__all__ = ["HEAD", "markup"]


def markup(figure: Figure) -> str:
    """A figure element."""
    kind, inner = ("map", _table(figure)) if isinstance(figure, Map) else ("curves", _svg(figure))
    return f'<figure class="{kind}"><figcaption>{_text(figure.title)}</figcaption>{inner}</figure>'


def _text(text: str) -> str:
    return html.escape(text, quote=True)


def _spot(said: str, row: int, column: int, first: bool) -> str:
    """The attributes of what can have the focus; of one figure one is reached by Tab."""
    return f'tabindex="{0 if first else -1}" data-at="{row} {column}" aria-label="{_text(said)}"'


# ----------------------------------------------------------------------------------------------
# Maps: a table, whose cells are as opaque as their values are large.


def _table(figure: Map) -> str:
    head = "".join(f'<th scope="col">{_text(name)}</th>' for name in ("", *figure.columns))
    rows = "".join(_row(figure, row) for row in range(len(figure.rows)))
    return f'<table role="grid" aria-label="{_text(figure.title)}"><tr>{head}</tr>{rows}</table>'


def _row(figure: Map, row: int) -> str:
    cells = "".join(_cell(figure, cell, row, column) for column, cell in enumerate(figure.cells[row]))
    return f'<tr><th scope="row">{_text(figure.rows[row])}</th>{cells}</tr>'


def _cell(figure: Map, cell: Cell, row: int, column: int) -> str:
    part = share(cell.value, figure)
    look = 'class="none"' if part is None else f'style="--v:{abs(part):.2f}"'
    less = ' class="less"' if part is not None and part < 0 else ""
    return f"<td {look}{less} {_spot(cell.said, row, column, row == column == 0)}>{_text(cell.text)}</td>"


# ----------------------------------------------------------------------------------------------
# Curves: an SVG.

_COLOURS = ("#3b82c4", "#d9730d", "#2a9d5c", "#9b5de5", "#e0434b", "#1697a6", "#a0703c", "#d6509f")
_DASHES = ("", "7 3", "2 3", "9 3 2 3")
_LEFT, _RIGHT, _TOP, _BOTTOM = 70, 530, 12, 290


class _Axis:
    """From values to a coordinate."""

    def __init__(self, values: Sequence[float], begin: float, end: float, log: bool = False) -> None:
        self.low, self.high = (min(values), max(values)) if values else (1.0, 2.0)
        if self.low == self.high:
            self.low, self.high = (self.low / 2, self.high * 2) if log else (self.low - 1, self.high + 1)
        self._begin, self._end, self._log = begin, end, log

    def at(self, x: float) -> float:
        low, high, x = (
            (math.log(v) for v in (self.low, self.high, x)) if self._log else (self.low, self.high, x)
        )
        return self._begin + (x - low) / (high - low) * (self._end - self._begin)

    def ticks(self) -> list[float]:
        """About five round numbers."""
        rough = (self.high - self.low) / 5
        power = 10.0 ** math.floor(math.log10(rough))
        step = power * next(f for f in (1, 2, 5, 10) if f * power >= rough)
        return [step * i for i in range(math.ceil(self.low / step), math.floor(self.high / step) + 1)]


def _svg(figure: Curves) -> str:
    lines = figure.known
    points = [p for line in lines.values() for p in line]
    x = _Axis([p.x for p in points], _LEFT, _RIGHT, figure.log)
    y = _Axis([p.y for p in points], _BOTTOM, _TOP)
    first = next((i for i, line in enumerate(lines.values()) if line), 0)
    drawn = (_line(i, name, line, x, y, first) for i, (name, line) in enumerate(lines.items()))
    height = max(_BOTTOM + 45, 22 + 18 * len(lines))
    label = _text(figure.title)
    inner = "".join((*_axes(figure, x, y), *drawn))
    return f'<svg role="group" aria-label="{label}" viewBox="0 0 720 {height}">{inner}</svg>'


def _axes(figure: Curves, x: _Axis, y: _Axis) -> Iterator[str]:
    for value in y.ticks():
        yield f'<path class="grid" d="M{_LEFT} {y.at(value):.1f}H{_RIGHT}"/>'
        yield f'<text x="{_LEFT - 8}" y="{y.at(value) + 4:.1f}" text-anchor="end">{value:.4g}</text>'
    for value in figure.ticks:
        yield f'<text x="{x.at(value):.1f}" y="{_BOTTOM + 18}" text-anchor="middle">{value:.4g}</text>'
    middle = (_LEFT + _RIGHT) / 2
    yield f'<text x="{middle}" y="{_BOTTOM + 38}" text-anchor="middle">{_text(figure.x)}</text>'
    middle = (_TOP + _BOTTOM) / 2
    turned = f'transform="rotate(-90 14 {middle})" text-anchor="middle"'
    yield f'<text x="14" y="{middle}" {turned}>{_text(figure.y)}</text>'


def _line(i: int, name: str, line: Sequence[Point], x: _Axis, y: _Axis, first: int) -> str:
    """A line of its own colour and dashes, its points, and its name beside the plot."""
    colour, dash = _COLOURS[i % len(_COLOURS)], _DASHES[(i + i // len(_COLOURS)) % len(_DASHES)]
    style, at = f'style="color:{colour}" stroke-dasharray="{dash}"', 12 + 18 * (i + 1)
    path = "L".join(f"{x.at(p.x):.1f} {y.at(p.y):.1f}" for p in line)
    circles = "".join(
        f'<circle cx="{x.at(p.x):.1f}" cy="{y.at(p.y):.1f}" r="4" role="img" '
        f"{_spot(p.said, i, k, (i, k) == (first, 0))}/>"
        for k, p in enumerate(line)
    )
    legend = f'<path d="M{_RIGHT + 15} {at - 4}h28"/><text x="{_RIGHT + 50}" y="{at}">{_text(name)}</text>'
    return f'<g {style}><path d="{"M" + path if path else ""}"/>{legend}{circles}</g>'


# ----------------------------------------------------------------------------------------------
# What a page with figures has in its head.

HEAD = """<style>
body { padding-bottom: 14em }
figure { margin: 1.5em 0 }
figcaption { font-weight: bold; margin-bottom: .4em }
.map table { font: 12px/1.6 monospace; border-collapse: separate; border-spacing: 1px }
.map th, .map td { border: 0; padding: 0 .35em; min-width: .8em; max-width: 9em; overflow: hidden;
  text-align: center; text-overflow: ellipsis; white-space: pre }
.map th[scope=row] { text-align: right }
.map th:first-child { position: sticky; left: 0; background: Canvas }
.map td { background: rgb(31 119 180 / calc(var(--v) * .7)) }
.map td.less { background: rgb(214 99 20 / calc(var(--v) * .7)) }
.map td.none { background: repeating-linear-gradient(45deg, #8884 0 2px, transparent 2px 6px) }
.curves svg { width: 100%; max-width: 60em; font: 12px sans-serif }
.curves text { fill: CanvasText }
.curves path { fill: none; stroke: currentColor; stroke-width: 2 }
.curves path.grid { stroke: #8884; stroke-width: 1 }
.curves circle { fill: currentColor; stroke: Canvas }
[data-at]:hover { outline: 1px solid CanvasText }
[data-at]:focus { outline: 2px solid CanvasText }
#said { position: fixed; inset: auto 0 0 0; padding: .6em 1.2em; white-space: pre-wrap;
  font: 13px/1.45 monospace; background: Canvas; border-top: 2px solid; max-height: 13em; overflow: auto }
#said:empty { display: none }
</style>
<script>
"use strict";
const bar = Object.assign(document.createElement("div"), { id: "said", ariaHidden: "true" });
const STEPS = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0] };
const spot = event => event.target.closest?.("[data-at]");
const tell = event => { bar.textContent = spot(event)?.getAttribute("aria-label") ?? ""; };
document.addEventListener("DOMContentLoaded", () => document.body.append(bar));
document.addEventListener("pointerover", tell);
document.addEventListener("focusin", event => {
  tell(event);
  const here = spot(event);
  here?.closest("figure").querySelectorAll("[tabindex='0']").forEach(other => { other.tabIndex = -1; });
  if (here) here.tabIndex = 0;
});
document.addEventListener("keydown", event => {
  if (event.key === "Escape") bar.textContent = "";
  const here = spot(event), step = STEPS[event.key];
  if (!here || !step) return;
  event.preventDefault();
  const [row, column] = here.dataset.at.split(" ").map(Number);
  const next = `[data-at="${row + step[0]} ${column + step[1]}"]`;
  here.closest("figure").querySelector(next)?.focus();
});
</script>
"""
