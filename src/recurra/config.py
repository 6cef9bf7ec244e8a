"""What this installation has and uses."""

from importlib.util import find_spec

import torch

from recurra.ops import native
from recurra.ops.project import product
from recurra.version import __version__

__all__ = ["show_config"]

# Each optional extra and the module that tells whether it is there.
EXTRAS = {
    "cli": "typer",
    "bench": "matplotlib",
    "train": "lightning_fabric",
    "bpe": "tokenizers",
    "hf": "transformers",
    "interp": "sklearn",
    "test": "pytest",
}


def show_config() -> None:
    """Print versions, the native kernels and the product in use, threads, and the extras that are there."""
    extras = [name for name, module in EXTRAS.items() if find_spec(module)]
    rows = {
        "recurra": __version__,
        "torch": torch.__version__,
        "kernels": native.level(),
        "product": product(),
        "threads": str(torch.get_num_threads()),
        "extras": ", ".join(extras) or "none",
    }
    print("\n".join(f"{name:8} {value}" for name, value in rows.items()))  # noqa: T201
