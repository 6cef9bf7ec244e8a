"""Translating with untrained models of equal parameters: sentences a second, and tokens of training a second.

Each source has `LENGTH` tokens and each answer as many, for none of them ends one: what is timed is neither
how well a model translates nor how long what it writes happens to be. An encoder and a decoder of `DEPTH`
blocks each; the widths are such that all have the parameters of the first model.
"""

from collections.abc import Callable, Iterator, Sequence
from itertools import product
from pathlib import Path
from typing import Any

import torch

from recurra.bench.report import Row
from recurra.bench.timing import Timing, interleave
from recurra.bench.widths import nearest
from recurra.blocks.table import BLOCKS
from recurra.models.classic import CLASSIC
from recurra.models.search import Limits, beam_search
from recurra.tasks.table import parse
from recurra.train.config import TrainConfig
from recurra.train.loop import launch
from recurra.train.run import build
from recurra.train.step import Stepper

MODELS = ("mingru", "transformer", CLASSIC)
LENGTH, VOCABULARY, DEPTH = 20, 4000, 3
BATCHES, BEAMS, TRAINED = (1, 64), (1, 5), 64
WIDTHS = range(8, 4096, 8)
TRAIN, TRANSLATE = "train", "translate"
COLUMNS = (
    *("part", "model", "width", "parameters", "batch", "beam", "repeats", "median_ms", "q1_ms", "q3_ms"),
    *("sentences_per_s", "tokens_per_s"),
)


def plan(model: str, width: int) -> TrainConfig:
    """A run of the benchmark. Raises ValueError that names an option."""
    if model not in (known := (*BLOCKS, CLASSIC)):
        raise ValueError(f"model must be of {', '.join(known)}, got {model!r}")
    task = f"copy:symbols={VOCABULARY - 1},shortest={LENGTH}"
    given: dict[str, Any] = {"task": task, "context": LENGTH, "batch": TRAINED, "tied": True, "device": "cpu"}
    return TrainConfig(model=model, width=width, depth=DEPTH, **given)


def parameters(config: TrainConfig) -> int:
    """Of the model of these options."""
    with torch.device("meta"):
        return sum(p.numel() for p in build(config, VOCABULARY).parameters())


def equal(models: Sequence[str], width: int) -> list[TrainConfig]:
    """The first model at this width, the others at those where they come nearest to its parameters."""
    first = plan(models[0], width)
    want = parameters(first)

    def like(model: str) -> int:
        return nearest(WIDTHS, lambda w: parameters(plan(model, w)), want)

    return [first, *(plan(model, like(model)) for model in models[1:])]


class Contender:
    """A model, a step of whose training is timed, and its answers."""

    def __init__(self, config: TrainConfig) -> None:
        torch.manual_seed(config.seed)
        self.config, self.done = config, 0
        data = parse(config.task).prepare(None, Path(), "", 0, None)
        self.model: Any = build(config, data.size)
        self.stepper = Stepper(self.model, data, config, launch(config))

    def train(self) -> None:
        """The next step, as `fit` makes it: batch, loss, gradient, clipping, AdamW."""
        self.stepper(self.done, self.config.lr)
        self.done += 1

    def translate(self, batch: int, beam: int) -> None:
        """Answer so many sources together."""
        source = torch.randint(1, VOCABULARY, (batch, LENGTH), generator=torch.Generator().manual_seed(0))
        limits = Limits(begin=0, end=VOCABULARY, longest=LENGTH)
        beam_search(self.model, source, torch.full((batch,), LENGTH), limits, beam)


def row(config: TrainConfig, part: str, batch: int, beam: int | None, t: Timing) -> Row:
    """What one contender's times say."""
    speed = batch / t.median * 1e3
    return {
        "part": part,
        "model": config.model,
        "width": config.width,
        "parameters": parameters(config),
        "batch": batch,
        "beam": beam,
        **t.columns,
        "sentences_per_s": speed,
        "tokens_per_s": speed * LENGTH,
    }


def run(
    configs: Sequence[TrainConfig], repeats: int, threads: int, say: Callable[[str], None]
) -> Iterator[list[Row]]:
    """The rows of training, then those of each batch and beam; the models take turns."""
    torch.set_num_threads(threads)
    made = {config.model: Contender(config) for config in configs}
    runs: dict[str, Callable[[], object]] = {name: one.train for name, one in made.items()}
    timed = interleave(runs, repeats, say=say)
    yield [row(made[name].config, TRAIN, TRAINED, None, t) for name, t in timed.items()]
    for batch, beam in product(BATCHES, BEAMS):
        runs = {name: _translating(one, batch, beam) for name, one in made.items()}
        timed = interleave(runs, repeats, say=say)
        yield [row(made[name].config, TRANSLATE, batch, beam, t) for name, t in timed.items()]


def _translating(one: Contender, batch: int, beam: int) -> Callable[[], object]:
    return lambda: one.translate(batch, beam)
