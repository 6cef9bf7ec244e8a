"""The page of `recurra memory`: half-lives, gates over a text, and two texts compared, as figures."""

import math
from collections.abc import Iterator, Mapping, Sequence

from torch import Tensor

from recurra.bench.report import cell
from recurra.interp.figures import Cell, Curves, Map, Point
from recurra.interp.lifetimes import Apart, Life
from recurra.interp.pages import Content

__all__ = ["compared", "gates", "lifetimes", "titles"]

# Quantiles of a map of half-lives, per cent; rows of a map of gates.
_QUANTILES, _GROUPS = range(0, 101, 5), 12


def titles(found: Sequence[Life]) -> list[str]:
    """What the figures call each block."""
    return [f"{i} {life.name}" for i, life in enumerate(found)]


def lifetimes(found: Sequence[Life]) -> Iterator[Content]:
    """Half-lives by block and quantile of channels, and what is left of a state against the tokens since."""
    named = dict(zip(titles(found), found, strict=True))
    if gated := {name: life for name, life in named.items() if life.factors is not None}:
        yield _ranked(gated)
    if lines := {name: _left(life) for name, life in named.items() if life.left}:
        title = "What is left of a difference in all of a state (root mean square)"
        yield Curves(title, "tokens since", "share left", lines, log=True)


def _left(life: Life) -> list[Point]:
    by = "the state Jacobian" if life.factors is None else "the product of the gates"
    return [Point(d, y, f"{life.name}, {d} tokens later, by {by}: {y:.3g}") for d, y in life.left.items()]


def _ranked(found: Mapping[str, Life]) -> Map:
    finite = [x for life in found.values() for x in life.half_lives.tolist() if 0 < x < math.inf] or [1.0]
    cells = [[_quantile(name, life, q) for q in _QUANTILES] for name, life in found.items()]
    title = "Half-lives in tokens, by block and quantile of its channels"
    columns = [f"{q} %" for q in _QUANTILES]
    return Map(title, list(found), columns, cells, min(finite), max(finite), log=True)


def _quantile(name: str, life: Life, per_cent: int) -> Cell:
    order = life.half_lives.argsort().tolist()
    channel = order[round((len(order) - 1) * per_cent / 100)]
    value = float(life.half_lives[channel])
    many = f"block {name}: {per_cent} % of {len(order)} channels live no longer than {value:.3g} tokens"
    return Cell(value, cell(value), f"{many}\nchannel {life.channels[channel]}")


def gates(found: Sequence[Life], tokens: Sequence[str]) -> Iterator[Content]:
    """What each of the first tokens makes the blocks forget: 1 - a, in the mean of channels and by groups."""
    named = zip(titles(found), found, strict=True)
    known = [(name, x.factors, x.half_lives) for name, x in named if x.factors is not None]
    moving = [one for one in known if (one[1] != one[1][:1]).any()]
    if still := [name for name, a, _ in known if (a == a[:1]).all()]:
        yield f"The same at every token: the gates of {', '.join(still)}."
    if moving:
        means = [(name, a.mean(1)) for name, a, _ in moving]
        yield _forgotten("What each token makes a block forget, in the mean of its channels", means, tokens)
    for name, a, half_lives in moving:
        title = f"What each token makes {name} forget, channels grouped by half-life"
        yield _forgotten(title, list(_groups(a, half_lives)), tokens)


def _groups(factors: Tensor, half_lives: Tensor) -> Iterator[tuple[str, Tensor]]:
    """Means [T] of channels of like half-lives, under the median of these."""
    order = half_lives.argsort()
    for part in order.tensor_split(min(_GROUPS, len(order))):
        yield f"{half_lives[part].median():.3g}", factors[:, part].mean(1)


def _forgotten(title: str, rows: Sequence[tuple[str, Tensor]], tokens: Sequence[str]) -> Map:
    """1 - a [T] a row, by tokens."""

    def told(name: str, t: int, gone: float) -> Cell:
        return Cell(gone, "", f"{name}, at token {t}: {tokens[t]}\n{100 * gone:.3g} % forgotten")

    cells = [[told(name, t, 1 - float(a[t])) for t in range(len(tokens))] for name, a in rows]
    values = [cell.value or 0.0 for line in cells for cell in line]
    return Map(title, [name for name, _ in rows], tokens, cells, min(values), max(values))


def compared(
    found: Apart, names: Sequence[str], tokens: Sequence[str], others: Sequence[str]
) -> Iterator[Map]:
    """Two texts: how far apart their states are, and where the difference is kept; blocks by positions."""
    far = "Distance of the states of both texts (0: equal, 1.41: nothing in common)"
    kept = (
        "Bits by which the prediction at the end moves if one block goes on from its state in the other text"
    )
    for title, values, most in ((far, found.distance, 2**0.5), (kept, found.moved, None)):
        yield _positions(title, values, found.positions, names, (tokens, others), most)


def _positions(
    title: str,
    values: Tensor,
    positions: Sequence[int],
    names: Sequence[str],
    texts: tuple[Sequence[str], Sequence[str]],
    most: float | None,
) -> Map:
    def told(row: int, k: int) -> Cell:
        value, p = float(values[row, k]), positions[k]
        where = f"{names[row]}, behind token {p}: {texts[0][p]}, in the other text {texts[1][p]}"
        return (
            Cell(None, "", where)
            if math.isnan(value)
            else Cell(value, f"{value:.2f}", f"{where}\n{value:.3g}")
        )

    cells = [[told(row, k) for k in range(len(positions))] for row in range(len(names))]
    top = most or float(values.nan_to_num(0.0).max())
    return Map(title, names, [texts[0][p] for p in positions], cells, 0.0, top)
