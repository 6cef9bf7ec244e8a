"""What is under test is an installed recurra, with its kernels."""

import subprocess
import sys
import sysconfig
from importlib.metadata import metadata, version
from pathlib import Path

import recurra
from recurra.ops import native


def test_the_kernels_are_in_use() -> None:
    assert native.level() in native.LEVELS


def test_one_version() -> None:
    assert recurra.__version__ == version("recurra")


def test_a_bare_checkout_on_the_path_has_no_version() -> None:
    bare = """
import importlib.metadata as metadata

known = metadata.version

def version(name):
    if name == "recurra":
        raise metadata.PackageNotFoundError(name)
    return known(name)

metadata.version = version
import recurra
print(recurra.__version__)
"""
    done = subprocess.run([sys.executable, "-c", bare], capture_output=True, text=True, check=True)
    assert done.stdout == "0+unknown\n"


def test_only_the_base_is_required() -> None:
    required = metadata("recurra").get_all("Requires-Dist") or []
    base = {row.split(">")[0] for row in required if "extra ==" not in row}
    assert base == {"torch", "numpy", "safetensors", "huggingface_hub"}


def test_the_command_is_installed() -> None:
    command = Path(sysconfig.get_path("scripts")) / "recurra"
    done = subprocess.run([command, "--help"], capture_output=True, text=True, check=True)
    assert "bench" in done.stdout
