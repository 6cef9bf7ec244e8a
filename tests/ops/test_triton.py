"""The Triton kernels in Triton's interpreter, on the CPU, and its compiler.

The interpreter must be chosen before triton is imported, and torch.compile imports it too: the laws run
in a process of their own.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("triton", reason="triton is not installed")


def run(interpret: str, *command: str) -> str:
    """What a Python process of its own says; it must end well."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith("PYTEST_")}
    environment |= {"TRITON_INTERPRET": interpret}
    done = subprocess.run(
        [sys.executable, *command], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    return done.stdout


def test_the_laws_in_the_interpreter() -> None:
    laws = map(str, sorted(Path(__file__).parent.glob("triton_*.py")))
    assert "passed" in run("1", "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", *laws)


@pytest.mark.slow
def test_the_compiler_takes_the_products(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    run("0", str(Path(__file__).with_name("compile_products.py")))


def test_the_compiler_takes_the_kernels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    run("0", str(Path(__file__).with_name("compile_triton.py")))
