"""xLSTM (arXiv 2405.04517), section 4.1: formal languages, trained on short words and judged on long ones."""

from typing import Any

from recurra.papers.experiment import Experiment, Published, Scale

__all__ = ["EXPERIMENTS"]

TASKS = {
    "parity": "parity",
    "mod arithmetic": "modular_arithmetic",
    "cycle nav": "cycle_navigation",
    "even pairs": "even_pairs",
    "bucket sort": "bucket_sort",
    "majority": "majority",
    "maj count": "majority_count",
    "miss dup": "missing_duplicate",
}
# Table of the third version of arXiv 2410.01201, as recalled; its averages agree.
REPORTED = {
    "Transformer": (None, None, 0.04, 1.0, 0.92, 0.37, 0.13, 0.08),
    "RWKV-4": (None, None, 0.13, 1.0, 0.54, 0.63, 0.13, 0.21),
    "Mamba": (None, None, 0.86, 1.0, 0.69, 0.69, 0.45, 0.15),
    "xLSTM": (None, None, 0.86, 1.0, 0.97, 0.74, 0.46, 0.33),
    "minLSTM": (None, None, 0.79, 1.0, 0.94, 0.93, 0.47, 0.26),
}

FORMAL: dict[str, Any] = {"depth": 2, "context": 40, "clip": 1.0, "windows": 256}

formal = Experiment(
    name="formal",
    title="Formal languages beyond the training length",
    paper="xLSTM (arXiv 2405.04517), section 4.1; numbers: arXiv 2410.01201, third version",
    rows={
        "LSTM": {"model": "lstm", "width": 64},
        "GRU": {"model": "gru"},
        "minGRU": {"model": "mingru"},
        "minLSTM": {"model": "minlstm"},
        "Mamba": {"model": "mamba"},
        "Transformer": {"model": "transformer"},
    },
    columns={column: {"task": task} for column, task in TASKS.items()},
    scales={
        "small": Scale(
            {**FORMAL, "batch": 128, "lr": 2e-3, "warmup": 100, "steps": 3000, "every": 250},
            1,
            {"LSTM": 1.0, "GRU": 1.1, "minGRU": 0.9, "minLSTM": 1.0, "Mamba": 1.7, "Transformer": 1.2},
        ),
        "full": Scale(
            {**FORMAL, "batch": 256, "lr": 1e-3, "warmup": 2000, "steps": 20_000, "every": 1000},
            3,
            {"LSTM": 12.0, "GRU": 13.0, "minGRU": 11.0, "minLSTM": 12.0, "Mamba": 21.0, "Transformer": 15.0},
        ),
    },
    measure="scaled_accuracy@40-256",
    unit="scaled accuracy",
    reference="LSTM",
    figures=("length",),
    published=tuple(
        Published(row, column, value, "REC+")
        for row, values in REPORTED.items()
        for column, value in zip(TASKS, values, strict=True)
        if value is not None
    ),
    note=(
        "Words of up to 40 symbols to train on, of 40 to 256 to be judged by; 0 is chance, 1 is solved. The "
        "Transformer that was reported is Llama. Parity and modular arithmetic are not in that table."
    ),
)

RECALL: dict[str, Any] = {"depth": 2, "clip": 1.0, "windows": 256}

mqar = Experiment(
    name="mqar",
    title="Multi-query associative recall against the state's size",
    paper="xLSTM (arXiv 2405.04517), section 4.1; task: arXiv 2312.04927",
    rows={
        "Transformer": {"model": "transformer"},
        "Aaren": {"model": "aaren"},
        "Mamba": {"model": "mamba"},
        "minGRU": {"model": "mingru"},
        "minLSTM": {"model": "minlstm"},
        "LSTM": {"model": "lstm"},
    },
    columns={
        "4 pairs, width 64": {"task": "mqar:pairs=4,size=1024", "context": 64, "width": 64},
        "8 pairs, width 64": {"task": "mqar:pairs=8,size=1024", "context": 128, "width": 64},
        "8 pairs, width 32": {"task": "mqar:pairs=8,size=1024", "context": 128, "width": 32},
        "8 pairs, width 128": {"task": "mqar:pairs=8,size=1024", "context": 128, "width": 128},
        "16 pairs, width 64": {"task": "mqar:pairs=16,size=1024", "context": 256, "width": 64},
    },
    scales={
        "small": Scale(
            {**RECALL, "batch": 32, "lr": 3e-3, "warmup": 100, "steps": 3000, "every": 250},
            1,
            {
                "Transformer": (0.6, 1.1, 0.9, 1.6, 2.3),
                "Aaren": (0.6, 1.1, 0.9, 1.6, 2.1),
                "Mamba": (0.8, 1.5, 1.2, 2.2, 2.8),
                "minGRU": (0.6, 1.1, 0.9, 1.6, 2.1),
                "minLSTM": (0.6, 1.1, 0.9, 1.6, 2.1),
                "LSTM": (0.8, 1.5, 1.1, 2.2, 2.9),
            },
        ),
        "full": Scale(
            {**RECALL, "batch": 256, "lr": 1e-3, "warmup": 1000, "steps": 50_000, "every": 1000},
            3,
            {
                "Transformer": (70, 140, 110, 210, 310),
                "Aaren": (70, 140, 110, 210, 280),
                "Mamba": (100, 200, 150, 290, 370),
                "minGRU": (70, 140, 110, 210, 280),
                "minLSTM": (70, 140, 110, 210, 280),
                "LSTM": (100, 200, 150, 290, 380),
            },
        ),
    },
    measure="accuracy@{context}",
    unit="% right",
    factor=100,
    reference="Transformer",
    figures=("curve", "state"),
    note="The easy settings: length 64, 128, 256; of 1,024 tokens here, of 8,192 in the paper.",
)

EXPERIMENTS = (formal, mqar)
