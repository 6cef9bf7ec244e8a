"""A training step of a language model beside its matrix products alone, and against the context.

The products are those of the step, on its shapes and with their gradients: every linear map and the head,
once as nn.Linear and once through `ops.project`. Those of a GRU or LSTM with its own past are among them,
as one product over all steps, which no such layer can have. Where the recurrence itself multiplies matrices,
`over_all_linear` and `over_all_project` count its products too: six of keys times values a head and step,
plain torch.bmm in chunks beside nn.Linear, and as linear maps beside `ops.project`.
"""

import json
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, replace
from typing import Any, NamedTuple

import torch
from torch import nn

from recurra.bench.contenders import Project
from recurra.bench.language import TORCH, Step, noise
from recurra.bench.memory import fresh, risen
from recurra.bench.products import BATCHED, LINEAR, MAPPED, PROJECT, Batched, Products, as_maps, memories
from recurra.bench.report import Row
from recurra.bench.timing import Timing, interleave
from recurra.blocks.table import BLOCKS
from recurra.train.config import TrainConfig

MODELS = ("mingru", "minlstm", "gru", "lstm", *TORCH)
FULL, MIXED = "32-true", "bf16-mixed"
STEP = "step"
CONTEXTS, TOKENS = (256, 1024, 4096), 4096
PLACE = ("batch", "context", "model", "precision", "part")
PRINTED = (
    *("model", "precision", "part", "repeats", "median_ms", "q1_ms", "q3_ms", "over_linear"),
    *("over_project", "over_all_linear", "over_all_project", "over_fp32", "tokens_per_s", "peak_mib"),
)
CONTEXT_PRINTED = ("model", "batch", "context", "repeats", "median_ms", "over_shortest", "tokens_per_s")
COLUMNS = (*PLACE, *PRINTED[3:], "over_shortest")
FLOORS = {
    "over_linear": (LINEAR,),
    "over_project": (PROJECT,),
    "over_all_linear": (LINEAR, BATCHED),
    "over_all_project": (PROJECT, MAPPED),
}


class Part(NamedTuple):
    """One contender: a training run, and what of its step is timed."""

    config: TrainConfig
    part: str

    @property
    def place(self) -> Row:
        """What tells it from all others."""
        c = self.config
        return dict(zip(PLACE, (c.batch, c.context, c.model, c.precision, self.part), strict=True))

    def __str__(self) -> str:
        return ", ".join(map(str, self.place.values()))


def contenders(configs: Sequence[TrainConfig]) -> dict[Part, Callable[[], object]]:
    """The step of each run and, for the library's own blocks, its products."""
    text, made = noise(), dict[Part, Callable[[], object]]()
    for config in configs:
        step = made[Part(config, STEP)] = Step(config, text)
        if config.model in BLOCKS:
            dtype = torch.bfloat16 if config.precision == MIXED else torch.float32
            found = floors(step.model, config.batch * config.context, dtype)
            made |= {Part(config, part): run for part, run in found.items()}
    return made


def floors(model: nn.Module, tokens: int, dtype: torch.dtype) -> dict[str, Callable[[], object]]:
    """The products of the linear maps, and those of a recurrence that multiplies matrices."""
    found: dict[str, Callable[[], object]] = {
        LINEAR: Products(model, tokens, nn.Linear, dtype),
        PROJECT: Products(model, tokens, Project, dtype),
    }
    if sizes := list(memories(model)):
        heads = sizes[0][0]
        found[BATCHED] = Batched(model, tokens, dtype)
        found[MAPPED] = Products(as_maps(model), tokens * heads, Project, dtype)
    return found


def time_all(
    runs: dict[Part, Callable[[], object]], repeats: int, say: Callable[[str], None]
) -> dict[Part, Timing]:
    """Interleaved times of all of them."""
    timings = interleave({str(part): run for part, run in runs.items()}, repeats, say=say)
    return {part: timings[str(part)] for part in runs}


def row(part: Part, t: Timing) -> Row:
    """What one contender's times say by themselves."""
    tokens = part.config.batch * part.config.context
    speed = {"tokens_per_s": tokens / t.median * 1e3} if part.part == STEP else {}
    return {
        **part.place,
        "repeats": t.repeats,
        "median_ms": t.median,
        "q1_ms": t.low,
        "q3_ms": t.high,
        **speed,
    }


def ratios(part: Part, timings: dict[Part, Timing]) -> Row:
    """A step over its products and over itself in fp32."""
    if part.part != STEP:
        return {}
    others = {name: [part._replace(part=p) for p in parts] for name, parts in FLOORS.items()}
    others["over_fp32"] = [part._replace(config=replace(part.config, precision=FULL))]
    ms = timings[part].median
    return {
        name: ms / sum(timings[part].median for part in parts)
        for name, parts in others.items()
        if all(part in timings for part in parts)
    }


def steps(
    configs: Sequence[TrainConfig], repeats: int, threads: int, say: Callable[[str], None]
) -> list[Row]:
    """Rows of each run."""
    timings = time_all(contenders(configs), repeats, say)
    rows = [{**row(part, t), **ratios(part, timings)} for part, t in timings.items()]
    for part, found in zip(timings, rows, strict=True):
        if part.part == STEP:
            say(f"{part}: memory")
            found["peak_mib"] = peak(part.config, threads)
    return rows


def contexts(config: TrainConfig, repeats: int, say: Callable[[str], None]) -> list[Row]:
    """Rows of one model at equal tokens a step, cut into windows of different lengths."""
    text = noise()
    cuts = [replace(config, context=context, batch=max(1, TOKENS // context)) for context in CONTEXTS]
    timings = time_all({Part(cut, STEP): Step(cut, text) for cut in cuts}, repeats, say)
    shortest = next(iter(timings.values())).median
    return [{**row(part, t), "over_shortest": t.median / shortest} for part, t in timings.items()]


def peak_here(config: TrainConfig) -> float:
    """MiB that weights, optimizer, gradients and activations take in this process."""
    text = noise()
    Step(replace(config, width=8, depth=1, batch=1, context=2), text)()

    def train() -> None:
        step = Step(config, text)
        step()
        step()

    return risen(train)


def peak(config: TrainConfig, threads: int) -> float | None:
    """MiB that training takes in a fresh process."""
    return fresh(__name__, [json.dumps(asdict(config)), threads], str(Part(config, STEP)))


def plan(model: str, width: int, depth: int, batch: int, context: int, precision: str = FULL) -> TrainConfig:
    """A run of the benchmark. Raises ValueError that names an option."""
    for name, given, known in (
        ("model", model, (*BLOCKS, *TORCH)),
        ("precision", precision, (FULL, MIXED)),
    ):
        if given not in known:
            raise ValueError(f"{name} must be of {', '.join(known)}, got {given!r}")
    return TrainConfig(
        model=model, width=width, depth=depth, batch=batch, context=context, precision=precision, device="cpu"
    )


def run(
    configs: Sequence[TrainConfig], repeats: int, threads: int, say: Callable[[str], None]
) -> Iterator[list[Row]]:
    """Rows of all steps, then those against the context: of the library's own blocks, in fp32."""
    torch.set_num_threads(threads)
    yield steps(configs, repeats, threads, say)
    ours = [config for config in configs if config.model in BLOCKS and config.precision == FULL]
    yield [found for config in ours for found in contexts(config, repeats, say)]


def _main(words: Sequence[Any]) -> None:
    torch.set_num_threads(int(words[1]))
    print(peak_here(TrainConfig(**json.loads(words[0]))))


if __name__ == "__main__":
    _main(sys.argv[1:])
