"""Questions that the papers leave open: size against quality, parts left out, and the best small model."""

from math import log
from typing import Any

from recurra.papers.experiment import Experiment, Published, Scale
from recurra.papers.were_rnns import SHAKESPEARE

__all__ = ["EXPERIMENTS"]

WIKIPEDIA: dict[str, Any] = {
    "source": "text/enwiki_shortened.xml.bz2",
    "context": 256,
    "batch": 16,
    "depth": 4,
    "lr": 1.5e-3,
    "warmup": 50,
    "every": 80,
    "windows": 128,
    "precision": "bf16-mixed",
}

scaling = Experiment(
    name="scaling",
    title="Bits per byte against parameters, Wikipedia",
    paper="recurra",
    rows={
        "minGRU": {"model": "mingru"},
        "minLSTM": {"model": "minlstm"},
        "Mamba": {"model": "mamba"},
        "Aaren": {"model": "aaren"},
        "Transformer": {"model": "transformer"},
    },
    columns={"0.3 M": {"width": 72}, "1 M": {"width": 136}, "2.5 M": {"width": 224}, "5 M": {"width": 320}},
    scales={
        "small": Scale(
            {**WIKIPEDIA, "steps": 1280},
            1,
            {
                "minGRU": (0.7, 1.3, 2.4, 4.2),
                "minLSTM": (0.7, 1.3, 2.5, 4.5),
                "Mamba": (1.2, 2.4, 4.2, 6.9),
                "Aaren": (0.7, 1.1, 2.1, 4.1),
                "Transformer": (1.5, 2.7, 4.2, 7.2),
            },
        ),
        "full": Scale(
            {**WIKIPEDIA, "context": 1024, "steps": 6400, "dropout": 0.1},
            3,
            {
                "minGRU": (14, 26, 48, 84),
                "minLSTM": (14, 26, 50, 90),
                "Mamba": (24, 48, 84, 140),
                "Aaren": (14, 22, 42, 82),
                "Transformer": (40, 70, 110, 180),
            },
        ),
    },
    measure="bits_per_byte@{context}",
    unit="bits per byte",
    lower=True,
    reference="Transformer",
    figures=("spent", "parameters"),
    note="Equal bytes read by all, about one pass at the small scale; one learning rate, of first choice.",
)

PARTS: dict[str, dict[str, Any]] = {
    "minLSTM": {"model": "minlstm", "width": 136},
    "forget bias 1": {"model": "minlstm", "options": "forget_bias=1"},
    "forget bias 3": {"model": "minlstm", "options": "forget_bias=3"},
    "no conv": {"model": "minlstm", "conv": 0},
    "no MLP": {"model": "minlstm", "mlp": 0.0},
    "no conv, no MLP": {"model": "minlstm", "conv": 0, "mlp": 0.0},
    "linear candidate": {"model": "minlstm", "options": "candidate=linear"},
    "gates not normalised": {"model": "minlstm", "options": "normalized=false"},
    "learned start": {"model": "minlstm", "options": "learned_state=true"},
}

ablations = Experiment(
    name="ablations",
    title="minLSTM with a part changed, Wikipedia",
    paper="recurra; forget bias: arXiv 2410.01201, appendix",
    rows=PARTS,
    columns={"bits per byte": {}},
    scales={
        "small": Scale({**WIKIPEDIA, "steps": 640}, 2, dict.fromkeys(PARTS, 0.8)),
        "full": Scale({**WIKIPEDIA, "context": 1024, "steps": 6400}, 3, dict.fromkeys(PARTS, 32.0)),
    },
    measure="bits_per_byte@{context}",
    unit="bits per byte",
    lower=True,
    reference="minLSTM",
    note="Equal parameters: what is left out makes the model wider.",
)

best = Experiment(
    name="best",
    title="Tiny Shakespeare, the best we can train",
    paper="nanoGPT's README: 10.7 M parameters, six layers",
    rows={
        "minGRU, 3 layers": {"model": "mingru", "width": 384, "expansion": 2.0, "depth": 3, "dropout": 0.4},
        "minGRU, 6 layers": {"model": "mingru", "width": 384, "depth": 6, "dropout": 0.3},
    },
    columns={"validation loss": {}},
    scales={
        "small": Scale(
            {**SHAKESPEARE, "steps": 1500, "warmup": 50, "every": 50},
            1,
            {"minGRU, 3 layers": 37.0, "minGRU, 6 layers": 55.0},
        ),
        "full": Scale(
            {**SHAKESPEARE, "steps": 5000, "warmup": 100},
            3,
            {"minGRU, 3 layers": 120.0, "minGRU, 6 layers": 180.0},
        ),
    },
    measure="bits_per_byte@{context}",
    unit="nats a character",
    factor=log(2),
    lower=True,
    published=(Published("nanoGPT's Transformer", "validation loss", 1.4697, "R: karpathy/nanoGPT"),),
    note=(
        "At most 10.7 million parameters, and at most three hours of two cores. Against the Shakespeare "
        "experiment: more dropout, more steps; more layers."
    ),
)

EXPERIMENTS = (scaling, ablations, best)
