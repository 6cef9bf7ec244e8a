"""Sequence to sequence: a claim about lengths, what a state can hold, and Multi30k from German to English.

None of it is of one paper: the tasks are those of `tasks.transduction`, the settings are ours.
"""

from typing import Any

from recurra.papers.experiment import Experiment, Scale

__all__ = ["EXPERIMENTS"]

WORDS: dict[str, Any] = {
    "depth": 2,
    "batch": 32,
    "lr": 2e-3,
    "decay": 0.01,
    "warmup": 100,
    "every": 500,
    "windows": 256,
}

reverse = Experiment(
    name="reverse",
    title="Reverse at length 200 against the size of the state",
    paper="recurra",
    rows={
        "minGRU, attention": {"model": "mingru"},
        "minGRU": {"model": "mingru", "cross": False},
        "mLSTM": {"model": "mlstm", "cross": False},
    },
    columns={f"width {n}": {"width": n} for n in (32, 64, 96)},
    scales={
        "small": Scale(
            {**WORDS, "task": "reverse", "context": 200, "steps": 3000},
            1,
            {"minGRU, attention": (1.6, 3.0, 5.5), "minGRU": (0.8, 1.5, 2.3), "mLSTM": (2.2, 4.0, 5.8)},
            {"minGRU, attention": {"steps": 4000}},
        ),
        "full": Scale(
            {**WORDS, "task": "reverse", "context": 200, "batch": 64, "steps": 50_000, "warmup": 1000},
            3,
            {"minGRU, attention": (35, 68, 125), "minGRU": (21, 43, 68), "mLSTM": (64, 125, 180)},
        ),
    },
    measure="accuracy@{context}",
    unit="% right",
    factor=100,
    beside=("whole@*",),
    figures=("state", "length", "curve"),
    note=(
        "Words of up to 200 of 32 symbols. Equal widths, not sizes: the question is what a state of so many "
        "numbers can hold, which without attention is all that the decoder knows of a word."
    ),
)

RATIOS = (10, 5, 2)

ratio = Experiment(
    name="ratio",
    title="Accuracy against the ratio of lengths: compress and expand",
    paper="recurra",
    rows={
        "minGRU": {"model": "mingru", "width": 64},
        "minGRU, no attention": {"model": "mingru", "cross": False, "mlp": 5.0},
        "Transformer": {"model": "transformer", "mlp": 3.5},
    },
    columns={
        **{f"{n}:1": {"task": f"compress:ratio={n}"} for n in RATIOS},
        "1:1": {"task": "copy"},
        **{f"1:{n}": {"task": f"expand:ratio={n}"} for n in reversed(RATIOS)},
    },
    scales={
        "small": Scale(
            {**WORDS, "context": 80, "steps": 3000},
            3,
            {
                "minGRU": (0.75, 0.75, 0.9, 1.05, 0.9, 0.8, 0.7),
                "minGRU, no attention": (0.6, 0.6, 0.7, 0.8, 0.75, 0.65, 0.65),
                "Transformer": (0.85, 0.9, 1.0, 1.2, 1.0, 0.85, 0.85),
            },
            fewer={"minGRU, no attention": 1},
        ),
        "full": Scale(
            {**WORDS, "context": 80, "batch": 128, "steps": 50_000, "warmup": 1000},
            3,
            {"minGRU": 50, "minGRU, no attention": 38, "Transformer": 57},
        ),
    },
    measure="accuracy@{context}",
    unit="% right",
    factor=100,
    reference="minGRU",
    beside=("whole@*",),
    figures=("settings", "curve"),
    note=(
        "The longer side has 80 symbols: 10:1 is compress, a tenth is written; 1:10 is expand; 1:1 is copy. "
        'The claim: "transformers win particularly when input and output differ significantly in length". '
        "Who only counts on from the symbol before is right at nine of ten places of 1:10, at four of five "
        "of 1:5, at every second of 1:2. MLPs make up for what is less or more in attention."
    ),
)

MULTI30K: dict[str, Any] = {
    "task": "translation:source=de,target=en,part=test_2016_flickr",
    "source": "mt/multi30k",
    "vocabulary": "bpe",
    "tokens": 4000,
    "tied": True,
    "smoothing": 0.1,
    "batch": 64,
    "lr": 2e-3,
    "windows": 500,
}
# A side is encoder or decoder; the MLPs make up for what is more in attention.
SIDES: dict[str, dict[str, Any]] = {
    "minGRU": {"model": "mingru", "width": 192},
    "Transformer": {"model": "transformer", "mlp": 3.6},
    "minGRU to Transformer": {"encoder": "mingru", "model": "transformer", "mlp": 3.8},
    "Transformer to minGRU": {"encoder": "transformer", "model": "mingru", "mlp": 3.8},
    "minGRU, no attention": {"model": "mingru", "cross": False},
    "LSTM, classic": {"model": "classic"},
}
# Steps that take 1250 s on one thread of a Xeon in fp32, which is faster there than bf16: by the
# milliseconds of one, 323, 296, 272, 294, 226, 281.
SAME_TIME = dict(zip(SIDES, (3870, 4220, 4600, 4250, 5530, 4450), strict=True))

multi30k = Experiment(
    name="multi30k",
    title="Multi30k, German to English",
    paper="recurra; data: arXiv 1605.00459, task 1",
    rows=SIDES,
    columns={"BLEU": {}},
    scales={
        "small": Scale(
            {**MULTI30K, "depth": 2, "dropout": 0.15, "warmup": 300, "every": 250, "average": 4},
            3,
            dict.fromkeys(SIDES, 11),
            {row: {"steps": steps} for row, steps in SAME_TIME.items()},
            dict.fromkeys(list(SIDES)[2:], 1),
        ),
        "full": Scale(
            {
                **MULTI30K,
                "precision": "bf16-mixed",
                "depth": 3,
                "dropout": 0.3,
                "warmup": 2000,
                "steps": 40_000,
                "every": 1000,
                "average": 5,
            },
            3,
            dict.fromkeys(SIDES, 130),
        ),
    },
    measure="bleu@test",
    unit="BLEU",
    reference="minGRU",
    beside=("*@test", "bleu@length*", "bleu@ratio*"),
    figures=("parts",),
    note=(
        "The sentences of test_2016_flickr as they are, in 4,000 pieces of both languages, found by a beam "
        "of five; sacrebleu's own tokens, case counts. Small: two blocks a side, 8 to 12 epochs, the same "
        "time for all."
    ),
)

EXPERIMENTS = (reverse, ratio, multi30k)
