"""Every experiment: the command line, the report and the tests read this table."""

from recurra.papers import own, were_rnns, xlstm
from recurra.papers.experiment import Experiment

__all__ = ["EXPERIMENTS"]

EXPERIMENTS: dict[str, Experiment] = {
    e.name: e for e in (*were_rnns.EXPERIMENTS, *xlstm.EXPERIMENTS, *own.EXPERIMENTS)
}
