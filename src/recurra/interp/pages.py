"""Pages of figures: what `recurra lens`, `steer` and `probe` found, from the rows of their files."""

import math
from collections import defaultdict
from collections.abc import Iterator, Sequence

from recurra.bench.page import Heading, Markup, Part, Table, html_page
from recurra.bench.report import Row, cell
from recurra.interp.figures import Cell, Curves, Figure, Map, Point, number, tokens_shown
from recurra.interp.markup import HEAD, markup
from recurra.interp.tuning import Trajectory
from recurra.models.vocabulary import Vocabulary

__all__ = ["Content", "depth", "page", "predictions", "probes", "steering"]

# What a page holds: the parts of any report, and figures.
Content = Part | Figure


def page(title: str, parts: Sequence[Content]) -> str:
    """One HTML file, which needs no other file and no network."""
    made: list[Part] = [Heading(title, 1)]
    made += [Markup(markup(p), p.title) if isinstance(p, Figure) else p for p in parts]
    return html_page(made, title, HEAD)


# ----------------------------------------------------------------------------------------------
# Lenses.


def depth(columns: Sequence[str], rows: Sequence[Row]) -> Iterator[Content]:
    """Of the rows of depth.csv: bits per byte and KL of each lens against the block, and the table."""
    blocks = [row for row in rows if row["block"] != "model"]
    for unit, label in (("KL", "KL to the model's prediction, bits/byte"), ("bits/byte", "bits per byte")):
        names = [column.removesuffix(f" {unit}") for column in columns if column.endswith(unit)]
        lines = {f"{name} lens": _by_block(blocks, f"{name} {unit}", name) for name in names}
        yield Curves(f"{label[0].upper()}{label[1:]}, by depth", "block", label, lines)
    yield Table(columns, list(rows))


def _by_block(rows: Sequence[Row], column: str, said: str) -> list[Point]:
    """A point for each row that has the column."""
    found = ((int(row["block"]), number(row.get(column))) for row in rows)
    return [Point(x, y, f"{said}, block {x}\n{column}: {cell(y)}") for x, y in found if y is not None]


def predictions(name: str, seen: Trajectory, tokens: Sequence[int], vocabulary: Vocabulary) -> Map:
    """A lens on one text [T], blocks by tokens: the likeliest next token, coloured by its probability."""
    read, positions = tokens_shown(tokens, vocabulary), seen.positions.tolist()
    rows = [*(f"block {i}" for i in range(len(seen.top) - 1)), "model"]

    def guess(row: int, k: int) -> Cell:
        best, chances = tokens_shown(seen.top[row, 0, k], vocabulary), seen.probability[row, 0, k].tolist()
        lines = [f"{100 * p:5.1f} %  {token}" for token, p in zip(best, chances, strict=True)]
        where = f"{rows[row]}, behind token {positions[k]}: {read[positions[k]]}"
        return Cell(chances[0], best[0], "\n".join([where, *lines, *_bits(seen, row, k, read)]))

    cells = [[guess(row, k) for k in range(len(positions))] for row in range(len(rows))]
    title = f"{name} lens: the likeliest next token behind each token, the stronger the colour, the surer"
    return Map(title, rows, [read[p] for p in positions], cells, 0.0, 1.0)


def _bits(seen: Trajectory, row: int, k: int, read: Sequence[str]) -> Iterator[str]:
    """What else is known of a prediction, in bits."""
    values = (float(x[row, 0, k]) / math.log(2) for x in (seen.entropy, seen.kl, seen.surprise))
    entropy, kl, surprise = values
    yield f"entropy {entropy:.2f} bits, KL to the model's {kl:.2f}"
    if (after := int(seen.positions[k]) + 1) < len(read):
        yield f"next comes {read[after]}, a surprise of {surprise:.2f} bits"


# ----------------------------------------------------------------------------------------------
# Steering.


def steering(columns: Sequence[str], rows: Sequence[Row]) -> Iterator[Content]:
    """Of the rows of steer.csv: change by block and multiplier, answers and text against the dose."""
    for on in dict.fromkeys(row["on"] for row in rows):
        own = [row for row in rows if row["on"] == on]
        yield _sweep(f"{on}: change of the matching answer's share, points", columns, own)
        for column, label in (
            ("matching", "share of the matching answer"),
            ("bits/byte", "bits per byte of text"),
        ):
            lines = _doses(columns, own, column)
            if any(lines.values()):
                yield Curves(f"{on}: {label} against the dose", "multiplier", label, lines)
    yield Table(columns, list(rows))


def _said(columns: Sequence[str], row: Row) -> str:
    """A line for each column that the row has."""
    values = {c: row.get(c) for c in columns}
    return "\n".join(f"{c}: {cell(v)}" for c, v in values.items() if v not in {None, ""})


def _sweep(title: str, columns: Sequence[str], rows: Sequence[Row]) -> Map:
    blocks, doses = (sorted({float(row[c]) for row in rows}) for c in ("block", "multiplier"))
    found = {(float(row["block"]), float(row["multiplier"])): row for row in rows}
    cells = [[_change(columns, found.get((b, m))) for m in doses] for b in blocks]
    most = max(abs(number(row["change"]) or 0.0) for row in rows)
    return Map(title, [f"block {b:g}" for b in blocks], [f"{m:g}" for m in doses], cells, -most, most)


def _change(columns: Sequence[str], row: Row | None) -> Cell:
    if row is None:
        return Cell(None, "", "not asked for")
    value = float(row["change"])
    return Cell(value, f"{100 * value:+.1f}", _said(columns, row))


def _doses(columns: Sequence[str], rows: Sequence[Row], column: str) -> dict[str, list[Point]]:
    lines = defaultdict[str, list[Point]](list)
    for row in sorted(rows, key=lambda row: float(row["multiplier"])):
        if (y := number(row.get(column))) is not None:
            lines[f"block {row['block']}"].append(Point(float(row["multiplier"]), y, _said(columns, row)))
    return lines


# ----------------------------------------------------------------------------------------------
# Probes.


def probes(columns: Sequence[str], rows: Sequence[Row], tried: str) -> Iterator[Content]:
    """Of the rows of probe.csv: AUROC in the column `tried`, and the gap recovered, by block; the table.

    A figure for each kind of place (`on`), a line a probe, and one of the ceiling that probes of a place
    share. The row of the model has no block: its AUROC is a level. Numbers may be text, as from a CSV, or
    missing.
    """
    for on in dict.fromkeys(row["on"] for row in rows if row.get("on")):
        own = [row for row in rows if row.get("on") in {on, None, ""}]
        highest = dict.fromkeys((row["block"], row.get("ceiling")) for row in own if row.get("on"))
        own += [{"probe": "ceiling", "on": on, "block": block, tried: best} for block, best in highest]
        for column, label in ((tried, f"AUROC, {tried}"), ("recovered", "share of the gap recovered")):
            lines = _probed(columns, own, column)
            if any(lines.values()):
                yield Curves(f"{label}: probes on each {on}", "block", label, lines)
    yield Table(columns, list(rows))


def _probed(columns: Sequence[str], rows: Sequence[Row], column: str) -> dict[str, list[Point]]:
    """A line a probe; of a row without a block a point at each."""
    lines = defaultdict[str, list[Point]](list)
    blocks = sorted({int(row["block"]) for row in rows if row.get("on")})
    for row in rows:
        if (y := number(row.get(column))) is not None:
            for block in [int(row["block"])] if row.get("on") else blocks:
                lines[row["probe"]].append(Point(block, y, _said(columns, row)))
    return lines
