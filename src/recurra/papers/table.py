"""Every experiment: the command line, the report and the tests read this table."""

from recurra.papers import inside, own, seq2seq, were_rnns, xlstm
from recurra.papers.experiment import Experiment

__all__ = ["EXPERIMENTS", "GROUPS"]

# By the names of their files.
GROUPS: dict[str, tuple[Experiment, ...]] = {
    "were_rnns": were_rnns.EXPERIMENTS,
    "xlstm": xlstm.EXPERIMENTS,
    "seq2seq": seq2seq.EXPERIMENTS,
    "own": own.EXPERIMENTS,
    "inside": inside.EXPERIMENTS,
}
EXPERIMENTS: dict[str, Experiment] = {e.name: e for group in GROUPS.values() for e in group}
