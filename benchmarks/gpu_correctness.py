"""The kernels of recurra against fp64: every equation, dtype, mask and direction, one chunk and several."""

import math
import os
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from itertools import product
from typing import Any
from unittest import mock

import gpu_memories as memories
import torch
from gpu_equations import FORWARD_ALONE, NAMES, equation
from gpu_timing import CUDA, DEVICE, Row, late, left, said
from torch import Tensor

from recurra.bench.baselines import DTYPES
from recurra.ops import kernels, native

Case = tuple[str, tuple[int, int, int], str, tuple[bool, bool]]

# Of softmax, the gradient of a lone bonus is one sum of differences, and may lose more in any form.
TOLERANCE = {"fp32": 64.0, "bf16": 4.0, "fp16": 4.0}  # relative RMS error in eps of the dtype


def cases(toy: bool) -> list[Case]:
    """Kernel, [B, T, D], dtype, and whether it is masked and reversed."""
    masks = ((False, False), (True, False), (True, True))
    every = ((name, *rest) for name in NAMES for rest in product(shapes(name, toy), DTYPES, masks))
    return [case for case in every if case[0] not in FORWARD_ALONE or not case[3][1]]


def shapes(name: str, toy: bool) -> list[tuple[int, int, int]]:
    """Of one chunk of time and of several."""
    if name in memories.NAMES:
        return memories.shapes(toy)
    return [(2, 33, 6)] if toy else [(3, 300, 40), (1, 4100, 64)]


def place(case: Case) -> Row:
    """What tells a row from all others."""
    gate, (batch, steps, width), dtype, (masked, reverse) = case
    sizes = {"batch": batch, "time": steps, "width": width}
    return {"gate": gate, **sizes, "dtype": dtype, "masked": masked, "reverse": reverse}


def correctness(case: Case) -> tuple[Case, Row]:
    """One row of the table; what does not compile or run is a row too."""
    try:
        worst, error = worst_eps(case), ""
    except Exception as e:
        worst, error = math.inf, said(e)
    return case, {"worst_eps": round(worst, 3), "right": worst <= TOLERANCE[case[2]], "error": error}


def worst_eps(case: Case) -> float:
    """The worst error of outputs, final state and all gradients, in eps of the dtype."""
    gate, (batch, steps, width), dtype, (masked, reverse) = case
    draw = torch.Generator(DEVICE).manual_seed(len(gate) + steps)
    normal = lambda *shape: torch.randn(*shape, generator=draw, device=DEVICE)  # noqa: E731
    forms = equation(gate)
    leaves, cotangents = forms.draw((batch, steps, width), DTYPES[dtype], normal)
    reset = torch.rand(batch, steps, generator=draw, device=DEVICE) < 0.02 if masked else None
    lengths = torch.randint(0, steps + 1, (batch,), generator=draw, device=DEVICE) if masked else None
    masks = (reset, lengths, reverse)
    with interpreted():
        got = gradients(forms.public, leaves, masks, cotangents)
    want = gradients(forms.truth, [x.double() for x in leaves], masks, cotangents)
    return max(rms(g, w) / torch.finfo(DTYPES[dtype]).eps for g, w in zip(got, want, strict=True))


@contextmanager
def interpreted() -> Iterator[None]:
    """With TRITON_INTERPRET=1 on a CPU, the Triton kernels in their interpreter for the C++ ones."""
    if CUDA or os.environ.get("TRITON_INTERPRET") != "1":
        yield
        return
    names: dict[str, Any] = {name: getattr(kernels, name) for name in kernels.FILES}
    with mock.patch.multiple(native, takes=lambda *xs: xs[0].dtype in kernels.DTYPES, **names):
        yield


def gradients(
    f: Callable[..., Any], leaves: list[Tensor], masks: tuple[Any, ...], cotangents: tuple[Tensor, ...]
) -> list[Tensor]:
    leaves = [x.detach().requires_grad_() for x in leaves]
    reset, lengths, reverse = masks
    out = f(*leaves, reset=reset, lengths=lengths, reverse=reverse)
    dy = tuple(d.to(y.dtype) for d, y in zip(cotangents, out, strict=True))
    return [*out, *torch.autograd.grad(out, leaves, dy)]


def rms(got: Tensor, want: Tensor) -> float:
    got, want = got.detach().double(), want.detach()
    error = float((got - want).norm() / want.norm().clamp(min=1e-30))
    return float("inf") if math.isnan(error) else error


def run(toy: bool) -> Iterator[Row]:
    """In several processes: nearly all of the time is the compilation of each case's kernels."""
    waiting: dict[Case, Row | None] = dict.fromkeys(cases(toy))
    for case, row in map(correctness, waiting) if toy else in_processes(list(waiting)):
        waiting[case] = row
        yield {**place(case), **row}
    for case, row in waiting.items():
        if row is None:
            yield {**place(case), "skipped": late()}


def in_processes(every: list[Case]) -> Iterator[tuple[Case, Row]]:
    """As many as there is time for, of every kind."""
    random.Random(0).shuffle(every)
    with torch.multiprocessing.get_context("spawn").Pool(min(16, os.cpu_count() or 1)) as pool:
        results: Any = pool.imap_unordered(correctness, every)
        with suppress(StopIteration, torch.multiprocessing.TimeoutError):
            while True:
                yield results.next(left())
