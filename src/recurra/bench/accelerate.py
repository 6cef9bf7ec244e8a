"""Models of transformers with and without `recurra.accelerate`: training step, prefill, generation.

Two copies of a model with the same weights take turns. A training step is loss, gradients and AdamW; prefill
is `generate` of one token behind a context; generation is `generate` of `TOKENS` tokens behind `PROMPT`, of a
model of ten million parameters, and its time is that of one token. logits_error is the largest difference of
the two models' logits in a context.
"""

import copy
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from recurra.bench.report import Row, record
from recurra.bench.timing import Timing, interleave
from recurra.extras import need
from recurra.interop import accelerate

VOCABULARY, PARAMETERS = 8192, 10_000_000
PROMPT, TOKENS = 16, 64
THEIRS, OURS = "transformers", "accelerated"
TRAINING, PREFILL, GENERATION = "training step", "prefill", "generation, a token"
COLUMNS = (
    *("model", "part", "width", "depth", "parameters", "batch", "time", "contender", "repeats", "median_ms"),
    *("q1_ms", "q3_ms", "over_accelerated", "logits_error"),
)

Say = Callable[[str], None]


class Family(NamedTuple):
    """Beginning of the names of its classes, and what its config is told beside the sizes."""

    name: str
    more: Callable[[int], Row]


FAMILIES = {
    "mamba": Family("Mamba", lambda width: {}),
    "rwkv": Family("Rwkv", lambda width: {"attention_hidden_size": width}),
    "xlstm": Family("xLSTM", lambda width: {"num_heads": 4}),
}


class Size(NamedTuple):
    """A language model of one family."""

    model: str
    width: int
    depth: int

    def build(self) -> Any:
        """It, drawn anew."""
        house, (name, more) = need("transformers", "hf"), FAMILIES[self.model]
        sizes = {"vocab_size": VOCABULARY, "hidden_size": self.width, "num_hidden_layers": self.depth}
        torch.manual_seed(0)
        made = getattr(house, f"{name}ForCausalLM")(
            getattr(house, f"{name}Config")(**sizes, **more(self.width))
        )
        made.generation_config.eos_token_id = None  # nothing ends a text early
        return made


def parameters(model: Any) -> int:
    """How many numbers it learns."""
    return sum(p.numel() for p in model.parameters())


def ten_million(model: str, width: int) -> Size:
    """Of this width, as deep as comes nearest to `PARAMETERS`."""
    two, three = (parameters(Size(model, width, depth).build()) for depth in (2, 3))
    return Size(model, width, max(2, 2 + round((PARAMETERS - two) / (three - two))))


def draw(*shape: int) -> Tensor:
    """Tokens, the same at every call."""
    return torch.randint(3, VOCABULARY, shape, generator=torch.Generator().manual_seed(0))


def step(model: Any, optimizer: torch.optim.Optimizer, x: Tensor) -> None:
    """One training step."""
    model.train()
    optimizer.zero_grad()
    model(x, labels=x, use_cache=False).loss.backward()
    optimizer.step()


def write(model: Any, x: Tensor, tokens: int) -> None:
    """The likeliest text."""
    model.eval().generate(x, max_new_tokens=tokens, min_new_tokens=tokens, do_sample=False, pad_token_id=0)


def difference(one: Any, other: Any, x: Tensor) -> float:
    """The largest, of their logits."""
    with torch.no_grad():
        got, want = (model.eval()(x, use_cache=False).logits for model in (one, other))
    return float((got - want).abs().max())


def pair(size: Size) -> dict[str, Any]:
    """The model twice, one of them accelerated."""
    theirs = size.build()
    ours = copy.deepcopy(theirs)
    accelerate(ours)
    return {THEIRS: theirs, OURS: ours}


def rows(place: Row, timings: dict[str, Timing], calls: int, error: float) -> Iterator[Row]:
    """Of both contenders, times of one of so many calls in a row."""
    for name, t in timings.items():
        times = (x / calls for x in (t.median, t.low, t.high))
        found = dict(zip(("median_ms", "q1_ms", "q3_ms"), times, strict=True))
        factor = t.median / timings[OURS].median
        yield {
            **place,
            "contender": name,
            "repeats": t.repeats,
            **found,
            "over_accelerated": factor,
            "logits_error": error,
        }


def part(size: Size, kind: str, batch: int, time: int, repeats: int, say: Say) -> list[Row]:
    """Both rows of one part."""
    models, x = pair(size), draw(batch, time)
    error = difference(models[OURS], models[THEIRS], x)
    calls = TOKENS if kind == GENERATION else 1
    runs: dict[str, Callable[[], object]]
    if kind == TRAINING:
        runs = {name: partial(step, m, torch.optim.AdamW(m.parameters()), x) for name, m in models.items()}
    else:
        runs = {name: partial(write, m, x, calls) for name, m in models.items()}
    timings = interleave(runs, repeats, say=lambda text: say(f"{size.model}, {kind}: {text}"))
    place = {"part": kind, "parameters": parameters(models[OURS]), "batch": batch, "time": time}
    return list(rows({**size._asdict(), **place}, timings, calls, error))


def known(models: Sequence[str]) -> list[str]:
    """The same names. Raises ValueError where one is no family."""
    if unknown := [name for name in models if name not in FAMILIES]:
        raise ValueError(f"model must be of {', '.join(FAMILIES)}, got {unknown[0]!r}")
    return list(models)


def run(
    sizes: Sequence[Size], batch: int, time: int, repeats: int, threads: int, say: Say
) -> Iterator[list[Row]]:
    """The rows of one family after another."""
    torch.set_num_threads(threads)
    for size in sizes:
        small = ten_million(size.model, size.width)
        yield [
            *part(size, TRAINING, batch, time, repeats, say),
            *part(size, PREFILL, 1, time, repeats, say),
            *part(small, GENERATION, 1, PROMPT, repeats, say),
        ]


def made(threads: int) -> Row:
    """The record of a run, with the version of what it is measured against."""
    return {**record(threads), "transformers": need("transformers", "hf").__version__}
