"""Language models on a GPU, one of each block: a step of its training, and writing, for `gpu.py --models`.

Each has about ten million parameters and reads bytes. Training is forward, backward, clipping and AdamW, in
fp32 and with bf16 autocast; writing draws one token after another, behind a prompt as long as a window.
"""

from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from gpu_timing import CUDA, DEVICE, MOST, Row, allocated, attempt, bench, peak_mib
from torch import Tensor, nn

from recurra.bench import generate
from recurra.bench.generate import TEMPERATURE, Size
from recurra.blocks.table import BLOCKS
from recurra.models import SequenceModel, language_model
from recurra.train.optimizer import adamw

TRAINING, WRITING = "training step", "generation"
FULL, MIXED = "fp32", "bf16 autocast"
RATE, DECAY, CLIP = 2e-3, 0.1, 1.0
SECONDS = 0.4  # of one row's repeats


class Place(NamedTuple):
    """What tells a row from all others; context: tokens of a window, or of a prompt."""

    model: str
    width: int
    depth: int
    work: str
    precision: str
    batch: int
    context: int


def places(size: Size, toy: bool) -> Iterator[Place]:
    """Training in both precisions; writing one text and many."""
    context = 4 if toy else 512
    for precision in (FULL, MIXED):
        yield Place(*size, TRAINING, precision, 2 if toy else 32, context)
    for batch in (1, 2 if toy else 64):
        yield Place(*size, WRITING, FULL, batch, context)


def run(toy: bool) -> Iterator[Row]:
    """Every block of the table."""
    for name in BLOCKS:
        size = Size(name, 8, 1) if toy else generate.ten_million(name)
        for place in places(size, toy):
            yield {**place._asdict(), **attempt(timed, place)}


def timed(place: Place) -> Row:
    """Times, tokens a second, and what is taken at most: weights, activations, gradients and moments."""
    held = allocated()
    torch.manual_seed(0)
    model = language_model(place.model, width=place.width, depth=place.depth).to(DEVICE)
    parameters = sum(p.numel() for p in model.parameters())
    tokens = torch.randint(256, (place.batch, place.context + 1), device=DEVICE)
    step, each = made(place, model, tokens)
    step()  # compiles, and makes AdamW's moments
    row = {"parameters": parameters, "peak_mib": peak_mib(step, held), **bench(step, SECONDS)}
    return {**row, "tokens_per_s": 1e3 * place.batch * each / row["median_ms"]}


def made(place: Place, model: SequenceModel, tokens: Tensor) -> tuple[Callable[[], object], int]:
    """What is timed, and how many tokens a row it takes."""
    if place.work == TRAINING:
        return training(model, tokens, place.precision == MIXED), place.context
    return writing(model, tokens), 1


def training(model: SequenceModel, tokens: Tensor, mixed: bool) -> Callable[[], None]:
    """Each call is one more step."""
    optimizer = adamw(model, RATE, DECAY, fused=CUDA)
    model.train()

    def step() -> None:
        with torch.autocast(DEVICE, torch.bfloat16, enabled=mixed):
            loss, _ = model.loss(tokens[:, :-1], tokens[:, 1:])
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), CLIP)
        optimizer.step()
        optimizer.zero_grad()

    return step


def writing(model: SequenceModel, tokens: Tensor) -> Callable[[], Tensor]:
    """Each call is one more token a row: as many as are compiled, weighed and timed."""
    text = model.generate(tokens[:, :-1], MOST + 8, temperature=TEMPERATURE, seed=0)
    return lambda: next(text)
