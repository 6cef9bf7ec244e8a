"""The kernels under AddressSanitizer and UBSan, on buffers of exact size (csrc/tests/sanitize.cpp)."""

import subprocess
import sysconfig
from pathlib import Path

ROOT = Path(__file__).parents[2]
SCRIPTS = Path(sysconfig.get_path("scripts"))


def run(*command: str | Path) -> str:
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    assert done.returncode == 0, done.stdout
    return done.stdout


def test_kernels_keep_to_their_buffers(tmp_path: Path) -> None:
    options = ["-DRECURRA_SANITIZE=ON", "-DRECURRA_STRICT=ON", f"-DCMAKE_MAKE_PROGRAM={SCRIPTS / 'ninja'}"]
    run(SCRIPTS / "cmake", "-G", "Ninja", "-S", ROOT, "-B", tmp_path, *options)
    run(SCRIPTS / "cmake", "--build", tmp_path)
    assert "portable: clean" in run(tmp_path / "sanitize")
