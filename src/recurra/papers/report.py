"""The report: experiments in the layout of their papers, ours beside what was published, and the cost."""

import fnmatch
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import mean, stdev

from recurra.bench.page import Heading, Part, Picture, Table, html_page, markdown_page
from recurra.bench.report import Row, write_text
from recurra.papers.experiment import SCALES, Experiment, grid
from recurra.papers.figures import draw
from recurra.papers.results import Found, find
from recurra.tasks.quality import side_by_side
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
    yield from _beside(e, found)
    yield from _studied(e, found)
    if not any(run.scale == "full" for run, _ in found):
        yield f"Full scale: {NOT_RUN} (`recurra reproduce run {e.name} --scale full`)."
    if found:
        yield Table(COST, list(_cost(e, found)))
        yield _made(found)
    for scale in SCALES:
        if path := _sheet(e, [f for f in found if f.run.scale == scale], results):
            yield f"Sentences side by side, {scale} scale: `{path.relative_to(results)}`."
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


def _beside(e: Experiment, found: list[Found]) -> Iterator[Table]:
    """A table a pattern: the scores that fit it, of each model and setting."""
    cells = [(scale, row, column) for scale in SCALES for row in e.rows for column in e.columns]
    for pattern in e.beside:
        rows, scores = list[Row](), dict[str, None]()
        for scale, row, column in cells:
            results = [result["scores"] for _, result in _of(found, scale, row, column)]
            names = fnmatch.filter(results[0], pattern) if results else []
            scores |= dict.fromkeys(names)
            values = {name: _spread([result[name] for result in results]) for name in names}
            rows += [{"model": row, "setting": column, "scale": scale, **values}] if values else []
        if rows:
            yield Table(["model", "setting", "scale", *scores], rows)


def _studied(e: Experiment, found: list[Found]) -> Iterator[Part]:
    """What each study printed of each model."""
    for name in e.studies:
        rows = [
            {"model": run.row, "setting": run.column, "scale": run.scale, "seed": run.seed, **row}
            for run, result in found
            for row in result["tables"][name]
        ]
        if rows:
            yield f"{name.capitalize()}:"
            yield Table(list(dict.fromkeys(key for row in rows for key in row)), rows)


def _sheet(e: Experiment, found: list[Found], results: Path) -> Path | None:
    """What each model wrote, its first seed, where it wrote sentences."""
    first: dict[str, dict[str, list[str]]] = {}
    for run, result in found:
        if "samples" in result:
            first.setdefault(run.row, result["samples"])
    if not first:
        return None
    texts, path = next(iter(first.values())), results / f"{e.name}-{found[0].run.scale}-samples.md"
    written = {row: made["written"] for row, made in first.items()}
    write_text(path, side_by_side(texts["source"], texts["reference"], written))
    return path


def _spread(values: list[float]) -> str:
    """Mean and, of several, standard deviation."""
    return f"{mean(values):.4g}" + (f" ± {stdev(values):.2g}" if len(values) > 1 else "")


def _value(e: Experiment, found: list[Found], scale: str) -> str:
    """Mean and spread over seeds, and how many there are where some are missing."""
    if not found:
        return NOT_RUN
    values = [run.value(result["scores"]) for run, result in found]
    planned = e.scales[scale].seeds_of(found[0].run.row)
    return _spread(values) + ("" if len(values) == planned else f" ({len(values)} of {planned})")


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
    """On what it was made, how one of its runs is made alone, and who counted its scores in which way."""
    machine, signatures = found[0].result["machine"], found[0].result.get("signatures", {})
    days = sorted(result["machine"]["date"][:10] for _, result in found)
    return (
        f"{machine['cpu']}, {machine['threads']} thread(s) a run, torch {machine['torch']}, recurra "
        f"{machine['recurra']}, kernels {machine['native']}, {days[0]} to {days[-1]}. The first run alone: "
        f"`{machine['command']}`"
    ) + "".join(f". {name}: `{said}`" for name, said in signatures.items())
