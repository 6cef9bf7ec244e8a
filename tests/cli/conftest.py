"""The command as a person types it."""

import sys

import pytest

from recurra.cli import main


@pytest.fixture
def command(monkeypatch, capsys):
    """Run `recurra` with these words: exit code, what it printed, what it complained."""

    def run(*words):
        monkeypatch.setattr(sys, "argv", ["recurra", *map(str, words)])
        with pytest.raises(SystemExit) as stopped:
            main()
        printed = capsys.readouterr()
        return stopped.value.code, printed.out, printed.err

    return run
