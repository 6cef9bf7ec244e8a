"""What a measurement leaves behind: rows as CSV, a printed table, and the record of how it was made."""

import csv
import io
import json
import os
import platform
import shlex
import sys
from collections.abc import Iterable, Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import torch

import recurra
from recurra.ops import native

Row = dict[str, Any]


def progress(text: str) -> None:
    """One line on stderr, overwritten by the next where it is a terminal."""
    start, end = ("\r\x1b[K", "") if sys.stderr.isatty() else ("", "\n")
    print(f"{start}{text}", end=end, file=sys.stderr, flush=True)


def processor() -> str:
    """The name of the CPU as its maker gives it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def record(threads: int) -> Row:
    """Machine, versions, threads, kernels, command and date: what a number needs to be trusted."""
    return {
        "cpu": processor(),
        "cores": os.cpu_count(),
        "system": platform.platform(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "recurra": recurra.__version__,
        "native": native.level(),
        "threads": threads,
        "command": shlex.join(["recurra", *sys.argv[1:]]),
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
    }


def write_text(path: Path, text: str) -> None:
    """Write a small text file: whole or not at all, also when stopped meanwhile."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(path.name + ".part")
    draft.write_text(text, encoding="utf-8")
    draft.replace(path)


def write_rows(path: Path, columns: Sequence[str], rows: Iterable[Row]) -> None:
    """Write rows as CSV."""
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_text(path, text.getvalue())


def read_rows(path: Path, columns: Sequence[str]) -> list[Row]:
    """Rows of an earlier call, none where there is no file. Raises ValueError for a file of other columns."""
    if not path.exists():
        return []
    with path.open(newline="", encoding="utf-8") as f:
        reader = csv.DictReader(f)
        if list(reader.fieldnames or []) != list(columns):
            raise ValueError(
                f"{path} has other columns than {', '.join(columns)}; name another folder by --out"
            )
        return list(reader)


def write_record(path: Path, made: Row) -> None:
    """Write the record beside its rows."""
    write_text(path, json.dumps(made, indent=2) + "\n")


def cell(value: Any) -> str:
    """A number with three significant digits, nothing for None."""
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:.3g}" if abs(value) < 100 else f"{value:.0f}"
    return str(value)


def markdown(columns: Sequence[str], rows: Iterable[Row]) -> str:
    """A Markdown table, aligned so that it also reads well on a terminal."""
    cells = [list(columns), *([cell(row.get(c)) for c in columns] for row in rows)]
    widths = [max(len(line[i]) for line in cells) for i in range(len(columns))]
    lines = [
        "| " + " | ".join(t.ljust(w) for t, w in zip(line, widths, strict=True)) + " |" for line in cells
    ]
    rule = "|" + "|".join("-" * (w + 2) for w in widths) + "|"
    return "\n".join([lines[0], rule, *lines[1:]]) + "\n"
