"""What a finished run leaves: one small JSON of its own, so that those of two machines merge."""

import json
from pathlib import Path
from typing import Any, NamedTuple

from recurra.bench.report import write_text
from recurra.papers.experiment import Run

__all__ = ["Found", "Result", "find", "path_of", "write"]

# As `work.result` makes it.
Result = dict[str, Any]


class Found(NamedTuple):
    """A finished run and its result."""

    run: Run
    result: Result


def path_of(run: Run, results: Path) -> Path:
    """Where the result of a run belongs."""
    return results / run.experiment.name / run.scale / f"{run.name}.json"


def find(run: Run, results: Path) -> Result | None:
    """The result of a run, None where there is none. Raises ValueError where the file is damaged."""
    path = path_of(run, results)
    try:
        found: Result = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except ValueError as e:
        raise ValueError(f"{path} is damaged: {e}") from e
    return found


def write(path: Path, result: Result) -> None:
    """Write it whole or not at all; each part is a line."""
    lines = ",\n".join(f"{json.dumps(name)}: {json.dumps(part)}" for name, part in result.items())
    write_text(path, f"{{\n{lines}\n}}\n")
