"""The report: experiments in the layout of their papers, ours beside what was published, and the cost."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import mean, stdev

from recurra.bench.page import Heading, Part, Picture, Table, html_page, markdown_page
from recurra.bench.report import Row, write_text
from recurra.papers.experiment import SCALES, Experiment, grid
from recurra.papers.figures import draw
from recurra.papers.results import Found, find
from recurra.train.progress import clock

__all__ = ["collect", "write"]

NOT_RUN = "runnable, not run"
COST = ("model", "setting", "scale", "seeds", "parameters", "steps", "tokens", "best step", "time a run")


def collect(experiment: Experiment, results: Path) -> list[Found]:
    """All finished runs of an experiment at the options that it has now, both scales."""
    runs = [run for scale in SCALES for run in grid(experiment, scale)]
    return [Found(run, result) for run in runs if (result := find(run, results))]


def write(experiments: Sequence[Experiment], results: Path) -> list[Path]:
    """report.md with its pictures beside it, and report.html, which is one file."""
    parts: list[Part] = [Heading("Experiments", 1), INTRODUCTION]
    for e in experiments:
        parts += _section(e, collect(e, results), results)
    write_text(results / "report.md", markdown_page(parts, results))
    write_text(results / "report.html", html_page(parts, "recurra: experiments"))
    return [results / "report.md", results / "report.html"]


INTRODUCTION = (
    "Models of one experiment have equal depth and, unless it says otherwise, equal parameters; they read "
    "the same data in the same order. Values are means over seeds ± standard deviation. Small and full scale "
    "are different experiments and never share a column. What is called unverified was recalled, not read."
)


def _section(e: Experiment, found: list[Found], results: Path) -> Iterator[Part]:
    yield Heading(e.title, 2)
    yield f"{e.paper}. {e.note} In {e.unit}, {'lower' if e.lower else 'higher'} is better. `{e.name}`"
    yield _scores(e, found)
    if not any(run.scale == "full" for run, _ in found):
        yield f"Full scale: {NOT_RUN} (`recurra reproduce run {e.name} --scale full`)."
    if found:
        yield Table(COST, list(_cost(e, found)))
        yield _made(found)
    for path, caption in draw(e, found, results / "figures"):
        yield Picture(path, caption)


def _scores(e: Experiment, found: list[Found]) -> Table:
    """Models by settings: ours at each scale that was run, and what was published."""
    names = list(dict.fromkeys([*e.rows, *(p.row for p in e.published)]))
    rows: dict[str, Row] = {name: {"model": name} for name in names}
    columns = ["model"]
    for column in e.columns:
        for scale in SCALES:
            if scale == "small" or any(run.scale == scale for run, _ in found):
                columns.append(f"{column}, {scale}")
                for row in e.rows:
                    rows[row][columns[-1]] = _value(e, _of(found, scale, row, column), scale)
        published = [p for p in e.published if p.column == column]
        if published:
            columns.append(f"{column}, published")
            for p in published:
                rows[p.row][columns[-1]] = p.says
    return Table(columns, list(rows.values()))


def _of(found: list[Found], scale: str, row: str, column: str) -> list[Found]:
    return [f for f in found if (f.run.scale, f.run.row, f.run.column) == (scale, row, column)]


def _value(e: Experiment, found: list[Found], scale: str) -> str:
    """Mean and spread over seeds, and how many there are where some are missing."""
    if not found:
        return NOT_RUN
    values = [run.value(result["scores"]) for run, result in found]
    around = f" ± {stdev(values):.2g}" if len(values) > 1 else ""
    planned = e.scales[scale].seeds
    return f"{mean(values):.4g}{around}" + (
        "" if len(values) == planned else f" ({len(values)} of {planned})"
    )


def _cost(e: Experiment, found: list[Found]) -> Iterator[Row]:
    for scale in SCALES:
        for row in e.rows:
            for column in e.columns:
                if cells := _of(found, scale, row, column):
                    results = [result for _, result in cells]
                    first = results[0]
                    values = (
                        *(row, column, scale, len(cells), f"{first['parameters']:,}", f"{first['steps']:,}"),
                        f"{first['tokens']:,}",
                        ", ".join(str(result["best"]["step"]) for result in results),
                        clock(mean(result["seconds"] for result in results)),
                    )
                    yield dict(zip(COST, values, strict=True))


def _made(found: list[Found]) -> str:
    """On what it was made, and how one of its runs is made alone."""
    machine = found[0].result["machine"]
    days = sorted(result["machine"]["date"][:10] for _, result in found)
    return (
        f"{machine['cpu']}, {machine['threads']} thread(s) a run, torch {machine['torch']}, recurra "
        f"{machine['recurra']}, kernels {machine['native']}, {days[0]} to {days[-1]}. The first run alone: "
        f"`{machine['command']}`"
    )
