"""Were RNNs All We Needed? (arXiv 2410.01201): selective copying and characters of Shakespeare.

What its authors' code says of a set-up is followed; the learning rate falls here, and is constant there.
"""

from math import log
from typing import Any

from recurra.papers.experiment import Experiment, Published, Scale

__all__ = ["EXPERIMENTS"]

PAPER = "Were RNNs All We Needed? (arXiv 2410.01201)"

MINGRU: dict[str, Any] = {"model": "mingru", "width": 64, "expansion": 6.0}
MINLSTM: dict[str, Any] = {**MINGRU, "model": "minlstm"}
COPYING: dict[str, Any] = {
    "task": "selective_copying",
    "batch": 64,
    "clip": 1.0,
    "decay": 0.01,
    "precision": "bf16-mixed",
    "every": 100,
    "windows": 256,
}
SMALL_COPYING: dict[str, Any] = {**COPYING, "context": 256, "lr": 3e-3, "warmup": 100, "steps": 1500}
# Learning rate, dropout and steps as recalled from the paper.
FULL_COPYING: dict[str, Any] = {
    **COPYING,
    "context": 4096,
    "lr": 3e-4,
    "warmup": 1000,
    "steps": 400_000,
    "every": 2000,
    "dropout": 0.1,
}

copying = Experiment(
    name="copying",
    title="Selective copying by depth",
    paper=f"{PAPER}, section 4.1",
    rows={"minGRU": MINGRU, "minLSTM": MINLSTM},
    columns={f"{n} layer{'s' * (n > 1)}": {"depth": n} for n in (1, 2, 3)},
    scales={
        "small": Scale(SMALL_COPYING, 3, {"minGRU": (2.0, 4.0, 6.0), "minLSTM": (2.0, 4.0, 6.0)}),
        "full": Scale(
            FULL_COPYING, 3, {"minGRU": (10000.0, 20000.0, 30000.0), "minLSTM": (10000.0, 20000.0, 30000.0)}
        ),
    },
    measure="accuracy@{context}",
    unit="% right",
    factor=100,
    reference="minGRU",
    published=(
        Published("minGRU", "1 layer", 37.0, "REC", 2.3),
        Published("minGRU", "2 layers", 96.8, "REC", 3.2),
        Published("minGRU", "3 layers", 99.5, "R2:NOTE213"),
        Published("minLSTM", "1 layer", 37.7, "REC", 0.6),
        Published("minLSTM", "2 layers", 85.7, "REC", 5.8),
        Published("minLSTM", "3 layers", 96.0, "REC", 2.8),
    ),
    note="Small: length 256. Full, and what was reported: length 4,096 and 400,000 steps.",
)

longer = Experiment(
    name="copying-1024",
    title="Selective copying at length 1,024",
    paper=f"{PAPER}, section 4.1",
    rows={"minGRU": MINGRU, "minLSTM": MINLSTM},
    columns={"3 layers": {"depth": 3}},
    scales={
        "small": Scale({**SMALL_COPYING, "context": 1024, "batch": 32}, 1, {"minGRU": 12.0, "minLSTM": 12.0}),
        "full": Scale({**FULL_COPYING, "context": 1024}, 3, {"minGRU": 8000.0, "minLSTM": 8000.0}),
    },
    measure="accuracy@{context}",
    unit="% right",
    factor=100,
    reference="minGRU",
    note="Four times as long as `copying`, a quarter of the length of the paper.",
)

SHAKESPEARE: dict[str, Any] = {
    "source": "text/tinyshakespeare.txt",
    "vocabulary": "char",
    "context": 256,
    "batch": 64,
    "depth": 3,
    "dropout": 0.2,
    "lr": 1e-3,
    "clip": 0.25,
    "every": 25,
    "windows": 500,
    "precision": "bf16-mixed",
}

shakespeare = Experiment(
    name="shakespeare",
    title="Tiny Shakespeare, characters",
    paper=f"{PAPER}, section 4.3",
    rows={
        "minGRU": {"model": "mingru", "width": 384, "expansion": 2.0},
        "minLSTM": {"model": "minlstm", "expansion": 2.0},
        "Mamba": {"model": "mamba"},
        "Transformer": {"model": "transformer"},
    },
    columns={"validation loss": {}},
    scales={
        "small": Scale(
            {**SHAKESPEARE, "steps": 900, "warmup": 50},
            1,
            {"minGRU": 20.0, "minLSTM": 20.0, "Mamba": 20.0, "Transformer": 20.0},
        ),
        "full": Scale(
            {**SHAKESPEARE, "steps": 5000, "warmup": 100},
            3,
            {"minGRU": 110.0, "minLSTM": 110.0, "Mamba": 110.0, "Transformer": 110.0},
        ),
    },
    measure="bits_per_byte@{context}",
    unit="nats a character",
    factor=log(2),
    lower=True,
    reference="minGRU",
    published=(
        Published("minGRU", "validation loss", 1.548, "R2:NOTE213"),
        Published("minLSTM", "validation loss", 1.555, "REC"),
        Published("Mamba", "validation loss", 1.575, "R2:NOTE213"),
        Published("Transformer", "validation loss", 1.547, "REC"),
    ),
    note=(
        "The lowest loss on all fresh windows of the held-out tenth, and its step. Sizes are equal here. As "
        "reported, unverified: best steps of about 575, 625, 400 and 2,000 of 5,000."
    ),
)

EXPERIMENTS = (copying, longer, shakespeare)
