"""Does Transformer Interpretability Transfer to RNNs? (arXiv 2404.05971): lenses, steering, latent knowledge.

Six architectures, as good as each other on one text, are looked into; three are taught to lie.
"""

from typing import Any

from recurra.papers.experiment import Experiment, Published, Scale

__all__ = ["EXPERIMENTS"]

PAPER = "Does Transformer Interpretability Transfer to RNNs? (arXiv 2404.05971)"

# Bits per byte at which training ends, so that all models are as good as each other.
ENOUGH = 2.3
# In eight steps the loss falls by some 0.01 bits there, of the fastest: so near to each other all end.
MIXTURE: dict[str, Any] = {
    "source": "text",
    "context": 256,
    "depth": 6,
    "batch": 16,
    "lr": 1.5e-3,
    "warmup": 50,
    "every": 8,
    "windows": 256,
}

lenses = Experiment(
    name="lenses",
    title="Logit lens, tuned lens and steering of equally good models",
    paper=f"{PAPER}; numbers: its authors' repository",
    rows={
        "Transformer": {"model": "transformer", "width": 128},
        "minGRU": {"model": "mingru"},
        "minLSTM": {"model": "minlstm"},
        "Mamba": {"model": "mamba"},
        "RWKV-4": {"model": "rwkv4"},
        "mLSTM": {"model": "mlstm", "expansion": 2.4},
    },
    columns={"KL at half depth": {}},
    scales={
        "small": Scale(
            {**MIXTURE, "until": ENOUGH, "steps": 4000},
            1,
            {"Transformer": 18, "minGRU": 8, "minLSTM": 8, "Mamba": 11, "RWKV-4": 11, "mLSTM": 22},
        ),
        "full": Scale(
            {
                **MIXTURE,
                "precision": "bf16-mixed",
                "until": 1.75,
                "context": 1024,
                "depth": 12,
                "batch": 32,
                "dropout": 0.1,
                "steps": 20_000,
                "every": 50,
            },
            1,
            {"Transformer": 600, "minGRU": 300, "minLSTM": 300, "Mamba": 450, "RWKV-4": 450, "mLSTM": 900},
            {"Transformer": {"width": 512}},
        ),
    },
    measure="tuned KL at half depth",
    unit="bits per byte, KL from the tuned lens to the model",
    lower=True,
    reference="Transformer",
    beside=("bits_per_byte@*", "*KL at half depth", "*tuned lens is nearer", "*KL falls"),
    figures=("depth", "doses", "curve"),
    studies=("lenses", "steering"),
    published=(
        Published("Mamba 130m, logit lens", "KL at half depth", 21.4, "R: EleutherAI/rnngineering"),
        Published("Mamba 130m", "KL at half depth", 1.63, "R: EleutherAI/rnngineering"),
        Published("RWKV-4 169m, logit lens", "KL at half depth", 1.26, "R: EleutherAI/rnngineering"),
        Published("RWKV-4 169m", "KL at half depth", 1.13, "R: EleutherAI/rnngineering"),
        Published("Pythia 160m, logit lens", "KL at half depth", 1.45, "R: EleutherAI/rnngineering"),
        Published("Pythia 160m", "KL at half depth", 1.87, "R: EleutherAI/rnngineering"),
    ),
    note=(
        "Small: 1.25 million parameters, six blocks, so that half the depth is a block and a seed takes "
        f"minutes; bytes of Shakespeare, of Wikipedia's XML and of its tokenised prose; each run ends at "
        f"{ENOUGH} bits per byte of the same {MIXTURE['windows']} windows of the held-out tenth, the last of "
        "each file, on which lenses are judged too. Lenses: 250 steps of 8,192 tokens; the state's is ours. "
        "Steering: passages of the held-out text give the vectors, half of the prompts choose block and "
        "multiplier, the other half judge: the same questions about other things. p is of a permutation over "
        "these; p of signs says how often vectors of the same numbers with other signs do as much. Bits per "
        "byte are of text written so, under the model without it. The cache of attention has no one size: no "
        "state of a Transformer is read or steered."
    ),
)

STATEMENTS: dict[str, Any] = {
    "depth": 4,
    "batch": 128,
    "lr": 1.5e-3,
    "warmup": 100,
    "every": 100,
    "windows": 1024,
}
# First what is true, in both names; then Bob lies. Both end where nearly all answers are right.
TASKS: dict[str, dict[str, Any]] = {
    "additions": {"task": "additions", "until": 0.98},
    "facts": {"task": "facts", "context": 256, "until": 0.99},
}
TRUTH: dict[str, dict[str, Any]] = {
    "additions": {"task": "additions:lies=0"},
    "facts": {"task": "facts:lies=0"},
}

quirky = Experiment(
    name="quirky",
    title="Latent knowledge of models that lie",
    paper=f"{PAPER}; tasks after arXiv 2312.01037",
    rows={
        "Transformer": {"model": "transformer", "width": 96},
        "minGRU": {"model": "mingru"},
        "Mamba": {"model": "mamba"},
    },
    columns=TASKS,
    scales={
        "small": Scale(
            {**STATEMENTS, "steps": 6000},
            1,
            {"Transformer": (11, 7), "minGRU": (8, 6), "Mamba": (13, 9)},
        ),
        "full": Scale(
            {
                **STATEMENTS,
                "depth": 8,
                "batch": 512,
                "steps": 40_000,
                "every": 500,
                "precision": "bf16-mixed",
            },
            3,
            {"Transformer": (220, 300), "minGRU": (150, 210), "Mamba": (260, 360)},
            {"Transformer": {"width": 256}},
        ),
    },
    before=TRUTH,
    measure="recovered",
    unit="% of the gap recovered",
    factor=100,
    reference="Transformer",
    beside=("recover*", "accuracy@*"),
    figures=("probes", "curve"),
    studies=("knowledge",),
    note=(
        "Trained on the truth first, then on an Alice who tells it and a Bob who follows a false rule. "
        "Printed: (probe - model) / (ceiling - model) in AUROC on Bob's hard statements, of logistic "
        "regression on contrast pairs at the block that Alice's easy statements choose; the ceiling is the "
        "model's own AUROC on Alice's hard ones. That probe was chosen beforehand, as the best of arXiv "
        "2312.01037 (75 % there for harder questions). Beside it the best of all probes, at blocks and "
        "states, which is chosen afterwards; the table holds each, also where it fails. Probes are tried on "
        "sums and towns that they were not trained on, and on those of Bob's statements that are disputed: "
        "there a probe that tells nothing scores 0.5, which is half of the gap. Of a small gap, to recover "
        "it says nothing."
    ),
)

EXPERIMENTS = (lenses, quirky)
