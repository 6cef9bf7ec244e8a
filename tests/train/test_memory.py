"""What the kernel says of memory: page faults."""

import ctypes
import subprocess
import sys

import pytest

from recurra.train import memory

# Page faults of taking, writing and giving back 96 MiB a second time, before the call and after it.
FAULTS = """
import ctypes, resource, runpy, sys
libc = ctypes.CDLL(None)
libc.malloc.restype, libc.free.argtypes = ctypes.c_void_p, [ctypes.c_void_p]
libc.memset.argtypes = [ctypes.c_void_p, ctypes.c_int, ctypes.c_size_t]

def taken():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    blocks = [libc.malloc(24 << 20) for _ in range(4)]
    for block in blocks:
        libc.memset(block, 1, 24 << 20)
    for block in blocks:
        libc.free(block)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

taken(), print(taken())
runpy.run_path(sys.argv[1])["hold_memory"]()
taken(), print(taken())
"""


GLIBC = sys.platform == "linux" and hasattr(ctypes.CDLL(None), "mallopt")


@pytest.mark.skipif(not GLIBC, reason="memory is not glibc's")
def test_what_was_freed_is_not_fetched_again():
    made = subprocess.run(
        [sys.executable, "-c", FAULTS, memory.__file__], capture_output=True, text=True, check=True
    )
    before, after = map(int, made.stdout.split())
    assert before > 40  # of which many can be one, of a huge page
    assert after < before / 4


def test_without_glibc_nothing_is_done(monkeypatch):
    monkeypatch.setattr(sys, "platform", "darwin")
    monkeypatch.setattr(ctypes, "CDLL", None)
    memory.hold_memory()
