"""Looking inside a model: what passes at its places, what its states hold, and what follows of others."""

from recurra.interp.lens import LogitLens, StateLens, TunedLens, load_lens, save_lens
from recurra.interp.memory import decays, half_life, state_jacobian, survival
from recurra.interp.places import intervene, record, states_at, subject
from recurra.interp.states import distance
from recurra.interp.subject import Place, Subject
from recurra.interp.tracing import graft, trace
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
    "decays",
    "distance",
    "fit",
    "graft",
    "half_life",
    "intervene",
    "load_lens",
    "record",
    "save_lens",
    "state_jacobian",
    "states_at",
    "subject",
    "survival",
    "trace",
    "trajectory",
]
