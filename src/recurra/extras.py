"""Packages that only some of the library needs."""

import importlib
from typing import Any

__all__ = ["need"]


def need(module: str, extra: str) -> Any:
    """Import a module of an optional extra. Raises RuntimeError that names the extra where it is missing."""
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as e:
        raise RuntimeError(f'{e.name} is not installed: pip install "recurra[{extra}]"') from e
