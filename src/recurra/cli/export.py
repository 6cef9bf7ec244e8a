"""`recurra export-transformers`: a trained model for others."""

from pathlib import Path
from typing import Annotated

import typer

from recurra.cli.generate import Run, opened_writer
from recurra.interop import to_transformers

Folder = Annotated[Path, typer.Argument(metavar="FOLDER", help="Where config.json and the rest are written.")]


def export_transformers(run: Run, folder: Folder) -> None:
    """Write a run's best model as a checkpoint that transformers loads, with its vocabulary."""
    to_transformers(opened_writer(run), folder)
    print(f"{folder}: for transformers.AutoModelForCausalLM and AutoTokenizer")
