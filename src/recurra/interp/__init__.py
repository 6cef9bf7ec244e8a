"""Looking inside a model: what passes at its places, what its states hold, and what follows of others."""

from recurra.interp.lens import LogitLens, StateLens, TunedLens, load_lens, save_lens
from recurra.interp.places import intervene, record, states_at, subject
from recurra.interp.states import distance
from recurra.interp.subject import Place, Subject
from recurra.interp.tuning import PAPER, QUICK, Recipe, by_depth, fit, trajectory

__all__ = [
    "PAPER",
    "QUICK",
    "LogitLens",
    "Place",
    "Recipe",
    "StateLens",
    "Subject",
    "TunedLens",
    "by_depth",
    "distance",
    "fit",
    "intervene",
    "load_lens",
    "record",
    "save_lens",
    "states_at",
    "subject",
    "trajectory",
]
