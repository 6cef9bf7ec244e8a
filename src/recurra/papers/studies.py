"""What is done to a trained model of an experiment: lenses, steering, probes for what it knows.

As "Does Transformer Interpretability Transfer to RNNs?" (arXiv 2404.05971) did to Mamba and RWKV.
"""

import math
from collections.abc import Callable
from itertools import pairwise
from typing import Any, NamedTuple

from recurra.bench.report import Row
from recurra.interp import depths
from recurra.interp.knowledge import Found, chosen, elicit, readable
from recurra.interp.lens import Lens, LogitLens, StateLens, TunedLens
from recurra.interp.places import subject
from recurra.interp.tuning import QUICK, fit
from recurra.papers.behaviours import BEHAVIOURS, steered
from recurra.tasks.quirky.common import CONTEXTS
from recurra.tasks.sampled import TEST, VALIDATION
from recurra.train.config import TrainConfig

__all__ = ["STUDIES", "Studied"]

RECIPE = QUICK
# Tokens from one state that its lens reads to the next.
EVERY = 16
# Statements of each context; probes are trained on the first one and tried on the last, where the model says
# what is not true; in the second one it says what is true of the like.
STATEMENTS = 500
TRUTHFUL, CEILING, _, LYING = CONTEXTS
# The best probe of arXiv 2312.01037; chosen before any other was tried.
PROBE = ("logistic pairs", "block")


class Studied(NamedTuple):
    """Scores by their names, and tables by theirs: the one of the study's name is printed."""

    scores: dict[str, float]
    tables: dict[str, list[Row]]


def lenses(model: Any, data: Any, config: TrainConfig) -> Studied:
    """Logit lens, tuned lens and, where states are of one size, the lens on them; on the windows of a run's
    evaluations."""
    recipe = RECIPE._replace(context=config.context)
    made: dict[str, Lens] = {"logit": LogitLens(model), "tuned": TunedLens(model)}
    if _remembers(model):
        made["state"] = StateLens(model, min(EVERY, config.context))
    for lens in list(made.values())[1:]:
        fit(lens, depths.feed(model, data.train, recipe), recipe)

    def batches() -> Any:
        return depths.held_out(model, data.valid, config.context, config.windows)

    rows = depths.rows(made, batches, data.bytes_per_token)
    # By which the run was ended.
    own = {f"bits_per_byte@{config.windows} windows": rows[-1]["logit bits/byte"]}
    return Studied(own | _half_way(rows, len(model.blocks)), {"lenses": [_rounded(row) for row in rows]})


def _remembers(model: Any) -> bool:
    """Whether the states of all blocks can be read."""
    return len(readable(model, ["state"])) == len(subject(model).blocks)


def _half_way(rows: list[Row], depth: int) -> dict[str, float]:
    """KL behind half of the blocks, of how many the tuned lens is nearer to the model than the logit lens,
    and from how many to the next its KL falls."""
    blocks, middle = rows[: depth - 1], rows[depth // 2 - 1]
    kl = [row["tuned KL"] for row in blocks]
    return {
        **{f"{name} KL at half depth": middle[f"{name} KL"] for name in ("logit", "tuned")},
        "blocks where the tuned lens is nearer": sum(row["tuned KL"] < row["logit KL"] for row in blocks),
        "steps at which its KL falls": sum(after < before for before, after in pairwise(kl)),
    }


def steering(model: Any, data: Any, config: TrainConfig) -> Studied:
    """Two behaviours, fixed beforehand: what chosen blocks, states and both do to prompts that chose none."""
    tables: dict[str, list[Row]] = {"steering": [], "doses": []}
    for behaviour in BEHAVIOURS:
        for name, rows in zip(tables, steered(behaviour, model, data), strict=True):
            tables[name] += map(_rounded, rows)
    return Studied({}, tables)


def knowledge(model: Any, data: Any, config: TrainConfig) -> Studied:
    """Every probe, trained on Alice's easy statements, tried on Bob's hard ones."""
    length = config.context
    made = elicit(
        model,
        data.in_context(VALIDATION, TRUTHFUL, length, STATEMENTS),
        {str(one): data.in_context(TEST, one, length, STATEMENTS) for one in CONTEXTS},
        str(CEILING),
        readable(model),
    )
    picked, own = chosen(made.found), {"probe": "model", **made.model}
    printed, found = ([_rounded(row) for row in (own, *map(_probed, kept))] for kept in (picked, made.found))
    scores = _recovered(picked, made.model[str(LYING)])
    return Studied(scores, {"knowledge": printed, "probes": found})


def _probed(one: Found) -> Row:
    about = {"probe": one.probe, "on": one.on, "block": one.block, **one.aurocs}
    return about | {"ceiling": one.ceiling, "recovered": one.recovered}


def _recovered(picked: list[Found], own: float) -> dict[str, float]:
    """By the probe that was chosen beforehand, and by the best of all, each at its chosen block; and the gap,
    from the model's own AUROC to the ceiling: of a small one any probe recovers much or little by chance."""
    gaps = {(one.probe, one.on): math.nan if one.recovered is None else one.recovered for one in picked}
    known = [gap for gap in gaps.values() if not math.isnan(gap)]
    best, gap = max(known, default=math.nan), picked[0].ceiling - own
    return {"recovered": gaps[PROBE], "recovered by the best": best, "recoverable gap": gap}


def _rounded(row: Row) -> Row:
    return {key: round(value, 5) if isinstance(value, float) else value for key, value in row.items()}


STUDIES: dict[str, Callable[[Any, Any, TrainConfig], Studied]] = {
    "lenses": lenses,
    "steering": steering,
    "knowledge": knowledge,
}
