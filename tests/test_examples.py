"""Each example runs as a person runs it, for a moment."""

import os
import re
import subprocess
import sys
from pathlib import Path

EXAMPLES = Path(__file__).parents[1] / "examples"


def test_char_lm():
    command = [sys.executable, str(EXAMPLES / "char_lm.py"), "--seconds", "1"]
    # Two threads of torch's GRU on busy cores wait for each other for minutes.
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert not done.returncode, done.stderr
    for name in ("MinGRU", "nn.GRU"):
        line = re.search(rf"^{name} +([\d,]+) +([\d,]+) +([\d.]+)$", done.stdout, re.MULTILINE)
        size, speed, bits = line.groups()
        assert int(size.replace(",", "")) > 0
        assert int(speed.replace(",", "")) > 0
        assert 0 < float(bits) < 9
    assert "\ndef " in done.stdout
