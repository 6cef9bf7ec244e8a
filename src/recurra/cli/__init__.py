"""The `recurra` command: parses a person's words, builds, calls, prints. The one room that imports typer."""

import importlib
import sys

__all__ = ["main"]


def main() -> None:
    """Run the command and exit: 0, 1 for a failure, 2 for wrong use; a fault is one line on stderr."""
    try:
        app = importlib.import_module("recurra.cli.app")
    except ModuleNotFoundError as e:
        if e.name != "typer":
            raise
        sys.exit('recurra: the command line needs typer: pip install "recurra[cli]"')
    sys.exit(app.run())
