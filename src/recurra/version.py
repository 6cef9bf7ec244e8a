"""The version of this installation."""

from importlib.metadata import PackageNotFoundError, version

__all__ = ["__version__"]

try:
    __version__ = version("recurra")
except PackageNotFoundError:  # a bare checkout on the path, which nobody installed
    __version__ = "0+unknown"
