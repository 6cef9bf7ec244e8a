"""The measured part of the README, made from result files, between two marks."""

import textwrap
from collections.abc import Iterator, Sequence
from pathlib import Path

from recurra.bench.report import Row, markdown
from recurra.bench.results import Device, devices, load, made_by
from recurra.bench.tables import factor, layer_times, scan_shares

__all__ = ["BEGIN", "END", "measured", "renewed"]

BEGIN, END = "<!-- measured: made by recurra bench report -->", "<!-- measured: end -->"
WIDTH, SHORT, LONG = 256, 512, 4096


def renewed(text: str, results: Path) -> str:
    """The README with what stands between its marks made anew. Raises ValueError where they are missing."""
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end):
        raise ValueError(f"the file must hold the lines {BEGIN} and {END}, in this order")
    return f"{before}{BEGIN}\n{measured(results)}{END}{after}"


def measured(results: Path) -> str:
    """Tables and how they were made, as Markdown."""
    found = list(devices(results))
    return "\n".join([*_layers(results), *_baselines(found), *_scans(found)])


def _paragraph(text: str) -> str:
    return textwrap.fill(text, 118, break_long_words=False, break_on_hyphens=False) + "\n"


def _layers(results: Path) -> Iterator[str]:
    if found := load(results, "layers"):
        yield _paragraph(f"Forward + backward of one layer in ms, fp32. {made_by(found.made)}.")
        table = layer_times(found)
        yield markdown(table.columns, table.rows)


def _baselines(found: Sequence[Device]) -> Iterator[str]:
    """How many times longer each GRU and LSTM takes than ours, at one width in fp32."""
    shown = [device for device in found if list(_lines(device))]
    if not shown:
        return
    yield _paragraph(
        "How many times longer other layers take than MinGRU or MinLSTM, forward + backward, batch 64, width "
        f"{WIDTH}, fp32; in brackets as CUDA graphs. The paper's 175 and 1324 (GRU), 235 and 1361 (LSTM) are "
        "of a T4 GPU, against cells that are not named in what we could read of it."
    )
    lines = [line for device in shown for line in _lines(device)]
    yield markdown(tuple(lines[0]), lines)
    yield from (_paragraph(f"{made_by(device.figure.made)}.") for device in shown)


def _lines(device: Device) -> Iterator[Row]:
    rows = device.figure.of(width=WIDTH, dtype="fp32")
    for layer in dict.fromkeys(row["layer"] for row in rows if ", " in row["layer"]):
        of = [row for row in rows if row["layer"] == layer]
        cells = {
            f"T = {time}": factor([row for row in of if row["time"] == time], "") for time in (SHORT, LONG)
        }
        if any(cells.values()):
            yield {"on": device.name, "beside": layer, **cells}


def _scans(found: Sequence[Device]) -> Iterator[str]:
    """How near to a copy's speed the recurrence alone comes, from the least to the most."""
    for device in found:
        shares: dict[str, list[float]] = {}
        for row in scan_shares(device).rows:
            shares.setdefault(row["dtype"], []).append(row["of a copy, %"])
        if shares:
            told = (f"{min(s):.0f} to {max(s):.0f} % in {dtype}" for dtype, s in shares.items())
            yield _paragraph(f"The recurrence alone, of copy bandwidth on {device.name}: {', '.join(told)}.")
