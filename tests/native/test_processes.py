"""The kernels in forked and spawned processes, which inherit no threads."""

import subprocess
import sys
from pathlib import Path

import pytest

from ops.recurrences import NATIVE

pytestmark = NATIVE

# After a parallel region in the parent, a child of fork would wait for threads that it does not have.
# Nothing in the children is large enough for torch's own threads, which would hang as well.
SCRIPT = """
import os, sys, torch
from recurra import ops
from recurra.ops import native

def inputs():
    rng = torch.Generator().manual_seed(0)
    return (torch.randn(5, 131, 140, generator=rng).requires_grad_(), torch.randn(5, 131, 70, generator=rng),
            torch.randn(70, 4, generator=rng), torch.randn(1, 700, generator=rng),
            torch.randn(301, 700, generator=rng))

def bits(x, dy, weight, row, matrix):
    y, _ = ops.mingru(x)
    dx, = torch.autograd.grad(y, x, dy)
    out = (y.detach(), dx, ops.causal_conv(dy, weight)[0], ops.project(row, matrix))
    return b"".join(t.numpy().tobytes() for t in out)

class Data(torch.utils.data.Dataset):
    def __len__(self):
        return 2
    def __getitem__(self, i):
        return bits(*inputs())

def bare_fork(given, want):
    child = os.fork()
    if not child:
        os._exit(0 if bits(*given) == want else 1)
    return os.waitpid(child, 0)[1]

if __name__ == "__main__":
    assert native.available()
    torch.set_num_threads(2)
    given = inputs()
    want = bits(*given)
    if sys.argv[1] == "bare fork":
        assert bare_fork(given, want) == 0
    else:
        loader = torch.utils.data.DataLoader(Data(), None, num_workers=1, multiprocessing_context=sys.argv[1])
        assert all(got == want for got in loader)
    assert bits(*given) == want
    print("same bits")
"""


@pytest.mark.parametrize("how", ["bare fork", "fork", "spawn"])
def test_child(tmp_path: Path, how: str) -> None:
    script = tmp_path / "child.py"
    script.write_text(SCRIPT)
    done = subprocess.run(
        [sys.executable, script, how], capture_output=True, text=True, check=False, timeout=120
    )
    assert done.stdout == "same bits\n", done.stderr
