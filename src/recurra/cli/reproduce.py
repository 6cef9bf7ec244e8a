"""`recurra reproduce`: experiments of papers, what they cost, what was published, and what comes out here."""

import os
import shlex
from pathlib import Path
from typing import Annotated

import typer

from recurra.bench.report import Row, markdown
from recurra.papers.experiment import SCALES, Experiment, Run, grid
from recurra.papers.matching import frozen, parameters
from recurra.papers.report import write
from recurra.papers.results import find
from recurra.papers.runner import Places, Runner
from recurra.papers.table import EXPERIMENTS, GROUPS
from recurra.papers.work import typed

app = typer.Typer(help="Run experiments of papers, within a stated budget.", rich_markup_mode=None)

CORES = os.cpu_count() or 1
LEDGER = ("experiment", "what", "runs", "done", "small, minutes", "full, hours")

Name = Annotated[str, typer.Argument(metavar="NAME", help="See recurra reproduce list.")]
ScaleName = Annotated[str, typer.Option(metavar="|".join(SCALES), help="Of steps, batches and seeds.")]
Results = Annotated[Path, typer.Option(help="Folder of the results.")]


@app.callback()
def reproduce() -> None:
    pass


def named(name: str, scale: str = SCALES[0]) -> tuple[Experiment, ...]:
    """An experiment of the table, or all of a group."""
    if name not in {**EXPERIMENTS, **GROUPS}:
        known = ", ".join([*EXPERIMENTS, *GROUPS])
        raise typer.BadParameter(f"NAME must be one of {known}, got {name!r}")
    if scale not in SCALES:
        raise typer.BadParameter(f"--scale is one of {', '.join(SCALES)}, got {scale!r}")
    return GROUPS.get(name) or (EXPERIMENTS[name],)


@app.command("list")
def ledger(results: Results = Path("results/reproduce")) -> None:
    """The experiments and what they cost: expected minutes of two cores; and those that share a name."""
    rows = [_cost(e, results) for e in EXPERIMENTS.values()]
    total = {key: sum(row[key] for row in rows) for key in LEDGER[2:]}
    print(markdown(LEDGER, [_rounded(row) for row in (*rows, {LEDGER[0]: "in all", **total})]))
    for name, group in GROUPS.items():
        print(f"{name}: {', '.join(e.name for e in group)}")


def _cost(e: Experiment, results: Path) -> Row:
    small, full = (grid(e, scale) for scale in SCALES)
    done = sum(find(run, results) is not None for run in small)
    minutes, hours = sum(run.minutes for run in small), sum(run.minutes for run in full) / 60
    return dict(zip(LEDGER, (e.name, e.title, len(small), done, minutes, hours), strict=True))


def _rounded(row: Row) -> Row:
    return {key: round(value) if isinstance(value, float) else value for key, value in row.items()}


@app.command()
def show(name: Name, scale: ScaleName = SCALES[0], results: Results = Path("results/reproduce")) -> None:
    """The runs of an experiment: sizes, options, expected minutes; published numbers with their tags."""
    for e in named(name, scale):
        _show(e, scale, results)


def _show(e: Experiment, scale: str, results: Path) -> None:
    print(f"{e.title}\n{e.paper}\n{e.note}\n")
    runs = grid(e, scale, seeds=1)
    columns = ("model", e.name, "width", "depth", "parameters", "minutes", "seeds", "done")
    print(markdown(columns, [dict(zip(columns, _shown(run, results), strict=True)) for run in runs]))
    chosen = e.scales[scale]
    first = {f"{column}, trained first": options for column, options in e.before.items()}
    for told in ({"all": chosen.options}, e.columns, first, e.rows, chosen.rows):
        for key, options in told.items():
            print(f"{key}:", shlex.join(word for option in options.items() for word in typed(*option)))
    if e.studies:
        print("studies:", ", ".join(e.studies))
    for p in e.published:
        print(f"published: {p.row}, {p.column}: {p.says}, {e.unit}")


def _shown(run: Run, results: Path) -> tuple[object, ...]:
    seeds = run.experiment.scales[run.scale].seeds_of(run.row)
    done = sum(find(run._replace(seed=seed), results) is not None for seed in range(seeds))
    config, size = run.config, parameters(frozen(run._replace(seed=0).options))
    sizes = (config.width, config.depth, f"{size:,}", run.minutes)
    return (run.row, run.column, *sizes, seeds, done)


@app.command("run")
def run_(
    names: Annotated[list[str], typer.Argument(metavar="NAME...", help="See recurra reproduce list.")],
    models: Annotated[
        str | None, typer.Option(metavar="A,B", help="Of the experiment's models; default: all.")
    ] = None,
    seeds: Annotated[int | None, typer.Option(min=1, help="Seeds of each run; default: the scale's.")] = None,
    scale: ScaleName = SCALES[0],
    jobs: Annotated[
        int, typer.Option(min=1, help="Runs side by side, each with its share of the cores.")
    ] = 2,
    out: Annotated[Path, typer.Option(help="Folder of the runs.")] = Path("runs/reproduce"),
    results: Results = Path("results/reproduce"),
    data: Annotated[
        Path | None, typer.Option(envvar="RECURRA_DATA", help="Folder of the data that is not made here.")
    ] = None,
) -> None:
    """Run what is not yet done; after a stop, at any time, the same command goes on where it was."""
    rows = tuple(models.split(",")) if models else ()
    try:
        chosen = dict.fromkeys(e for name in names for e in named(name, scale))
        runs = [run for e in chosen for run in grid(e, scale, rows, seeds)]
    except ValueError as e:
        raise typer.BadParameter(str(e)) from e
    runner = Runner(runs, Places(out, results, data), jobs, max(CORES // jobs, 1))
    print(f"{len(runs)} runs, {runner.skipped} of them done before")
    if failed := runner():
        raise RuntimeError(f"{len(failed)} of {len(runs)} runs failed, see above; logs are in {out}")


@app.command()
def report(results: Results = Path("results/reproduce")) -> None:
    """Write report.md with its pictures, and report.html, one file: ours beside what was published."""
    for path in write(list(EXPERIMENTS.values()), results):
        print(path)
