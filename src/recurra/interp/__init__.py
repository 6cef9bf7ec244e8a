"""Looking inside a model: what passes at its places, what its states hold, and what follows of others."""

from recurra.interp.places import intervene, record, states_at, subject
from recurra.interp.subject import Place, Subject

__all__ = ["Place", "Subject", "intervene", "record", "states_at", "subject"]
