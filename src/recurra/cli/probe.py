"""`recurra probe`: whether a model that was taught to say what is false still knows what is true."""

from pathlib import Path
from typing import Annotated

import torch
import typer

from recurra.bench.report import Row, markdown, record, write_record, write_rows
from recurra.cli.generate import Run, writer
from recurra.cli.page import leave
from recurra.interp import pages
from recurra.interp.knowledge import Elicited, chosen, elicit, readable
from recurra.interp.probes import PROBES
from recurra.models.vocabulary import ByteVocabulary
from recurra.tasks.quirky.common import CONTEXTS, Quirky
from recurra.tasks.sampled import TEST, VALIDATION
from recurra.tasks.table import TASKS, name_of, parse
from recurra.train import checkpoint
from recurra.train.progress import Line

# Where probes are trained, where the model says what is true of the like of what they are tried on, and that.
TRUTHFUL, CEILING, _, LYING = CONTEXTS
COLUMNS = ("probe", "on", "block", *map(str, CONTEXTS), "ceiling", "recovered")
Number = Annotated[list[int] | None, typer.Option(min=0, help="Block, from 0; repeatable; default: all.")]


def probe(
    run: Run,
    task: Annotated[str | None, typer.Option(help="Of the statements; default: the run's own.")] = None,
    context: Annotated[
        int | None, typer.Option(min=1, help="As the task counts; default: the run's.")
    ] = None,
    statements: Annotated[int, typer.Option(min=16, help="Of each context, and again to train on.")] = 500,
    method: Annotated[
        list[str] | None, typer.Option(help=f"Of {', '.join(PROBES)}; repeatable; default: all.")
    ] = None,
    on: Annotated[
        list[str] | None, typer.Option(help="block, layer or state; repeatable; default: block, state.")
    ] = None,
    block: Number = None,
    out: Annotated[Path | None, typer.Option(help="Folder for what is made; default: RUN/probe.")] = None,
) -> None:
    """Train probes for what is true on Alice's easy statements, and try them where Bob lies on hard ones.

    AUROC for what is true, of Bob's where he is wrong; ceiling: the model's own on Alice's hard statements;
    recovered: (probe - model) / (ceiling - model). Printed: the first block with 95 % of the best for Alice.
    """
    model, vocabulary = writer(run)
    words, data = _task(run, task)
    if not isinstance(vocabulary, ByteVocabulary):
        raise ValueError(f"{run} does not read bytes, of which the statements of {data.name} are")
    length, folder, line = context or _context(run, words), out or run / "probe", Line()
    places = readable(model, on or ("block", "state"), block)
    made = elicit(
        model,
        data.in_context(VALIDATION, TRUTHFUL, length, statements),
        {str(one): data.in_context(TEST, one, length, statements) for one in CONTEXTS},
        str(CEILING),
        places,
        method or tuple(PROBES),
        told=line.show,
    )
    line.keep(f"{len(made.found)} probes, {statements} statements of each context")
    rows, columns = _rows(made), (*COLUMNS, "chosen")
    write_rows(folder / "probe.csv", columns, rows)
    about = {"task": words, "context": length, "statements": statements}
    write_record(folder / "probe.json", record(torch.get_num_threads()) | about)
    title = f"What {run} knows of {words}: probes trained on {TRUTHFUL}, tried on {LYING}"
    leave(folder / "probe", title, list(pages.probes(columns, rows, str(LYING))))
    printed = [row for row in rows if row["chosen"]]
    print(f"{markdown(COLUMNS, printed)}\nin {folder}: probe.csv and probe.html")


def _task(run: Path, words: str | None) -> tuple[str, Quirky]:
    """The task whose statements are probed, as it is written and as it is."""
    if words is None and (run / "config.json").exists():
        raise ValueError(f"{run} holds a model without its task: name one by --task")
    words = words or checkpoint.options(checkpoint.best(run)).task
    kind: object = parse(words)
    if not isinstance(kind, Quirky):
        known = ", ".join(name for name, one in TASKS.items() if issubclass(one, Quirky))
        raise ValueError(f"task must be one of statements, {known}, got {words}: name one by --task")
    return words, kind


def _context(run: Path, words: str) -> int:
    """What the run was trained with, where it was of the same task; or else the task's own."""
    if not (run / "config.json").exists():
        options = checkpoint.options(checkpoint.best(run))
        if name_of(options.task) == name_of(words):
            return options.context
    return parse(words).context


def _rows(made: Elicited) -> list[Row]:
    """The model's own answers first."""
    best = chosen(made.found)
    rows: list[Row] = [{"probe": "model", **made.model, "chosen": 1}]
    for one in made.found:
        about = {"probe": one.probe, "on": one.on, "block": one.block, **one.aurocs}
        rows.append(about | {"ceiling": one.ceiling, "recovered": one.recovered, "chosen": int(one in best)})
    return rows
