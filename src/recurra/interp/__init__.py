"""Looking inside a model: what passes at its places, what its states hold, and what steers it."""

from recurra.interp.contrast import contrast
from recurra.interp.doses import MULTIPLIERS, Writing, answers, by_chance, change, sweep
from recurra.interp.knowledge import Elicited, Found, chosen, disputed, elicit, read_statements, readable
from recurra.interp.lens import LogitLens, StateLens, TunedLens, load_lens, save_lens
from recurra.interp.lifetimes import Apart, Life, apart, lives
from recurra.interp.memory import decays, half_life, state_jacobian, survival
from recurra.interp.pairs import Pair, encode_pairs, read_pairs
from recurra.interp.places import intervene, record, states_at, subject
from recurra.interp.probes import PROBES, auroc
from recurra.interp.states import distance
from recurra.interp.steering import load_vectors, save_vectors, steer
from recurra.interp.subject import Place, Subject
from recurra.interp.tracing import graft, trace
from recurra.interp.tuning import PAPER, QUICK, Recipe, by_depth, fit, trajectory
from recurra.tasks.quirky.common import Statements

__all__ = [
    "MULTIPLIERS",
    "PAPER",
    "PROBES",
    "QUICK",
    "Apart",
    "Elicited",
    "Found",
    "Life",
    "LogitLens",
    "Pair",
    "Place",
    "Recipe",
    "StateLens",
    "Statements",
    "Subject",
    "TunedLens",
    "Writing",
    "answers",
    "apart",
    "auroc",
    "by_chance",
    "by_depth",
    "change",
    "chosen",
    "contrast",
    "decays",
    "disputed",
    "distance",
    "elicit",
    "encode_pairs",
    "fit",
    "graft",
    "half_life",
    "intervene",
    "lives",
    "load_lens",
    "load_vectors",
    "read_pairs",
    "read_statements",
    "readable",
    "record",
    "save_lens",
    "save_vectors",
    "state_jacobian",
    "states_at",
    "steer",
    "subject",
    "survival",
    "sweep",
    "trace",
    "trajectory",
]
