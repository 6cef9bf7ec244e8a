"""What the tests share: one table of tolerances, one measure of error, drawn masks."""

import random
from typing import Any

import torch
from torch import Tensor

from recurra.state import KVState, SoftmaxState

# Relative RMS error in units of the dtype's eps. 64 is generous for exact arithmetic carried through
# thousands of steps; bf16 and fp16 round only what goes in and what comes out (2 eps), the rest is fp32.
TOLERANCE: dict[torch.dtype, float] = {
    torch.float64: 64,
    torch.float32: 64,
    torch.bfloat16: 4,
    torch.float16: 4,
    torch.complex128: 64,
    torch.complex64: 64,
}


def rms(got: Tensor, want: Tensor) -> float:
    """Root mean square of got - want over that of want, in fp64; infinite where only one is finite."""
    if got.shape != want.shape:
        raise AssertionError(f"shape {list(got.shape)}, expected {list(want.shape)}")
    wide = torch.complex128 if want.is_complex() else torch.float64
    got, want = got.detach().to(wide), want.detach().to(wide)
    if not want.numel():
        return 0.0
    if not bool(got.isfinite().equal(want.isfinite())):
        return float("inf")
    finite = want.isfinite()
    error = torch.where(finite, got - want, 0).abs().square().mean().sqrt()
    size = torch.where(finite, want, 0).abs().square().mean().sqrt()
    return float(error / size) if size > 0 else float(error)


def close(got: Tensor, want: Tensor, eps: float | None = None) -> None:
    """Assert that `got` meets `want` within `eps` units of its own dtype, from the table if None."""
    allowed = TOLERANCE[got.dtype] if eps is None else eps
    error = rms(got, want) / torch.finfo(got.dtype).eps
    assert error <= allowed, f"relative RMS error {error:.3g} eps of {got.dtype}, allowed {allowed}"


def wake(module: Any, std: float = 0.5) -> Any:
    """The module with parameters that begin as zeros drawn anew: they hide what stands behind them."""
    with torch.no_grad():
        for p in module.parameters():
            if not p.any():
                p.normal_(0, std)
    return module


def leaves(tree: Any) -> list[Tensor]:
    """The tensors of a state, in order."""
    return [tree] if isinstance(tree, Tensor) else [leaf for part in tree for leaf in leaves(part)]


def same_state(got: Any, want: Any, eps: float | None = None) -> None:
    """Assert that two states say the same, each tensor within `close`'s tolerance; integers are equal."""
    if isinstance(got, KVState):
        got, want = _held(got, want), _held(want, got)
    if isinstance(got, SoftmaxState):
        got, want = _sums(got), _sums(want)
    if not isinstance(got, Tensor):
        for one, other in zip(got, want, strict=True):
            same_state(one, other, eps)
    elif got.dtype in TOLERANCE:
        close(got, want, eps)
    else:
        assert got.equal(want)


def _sums(average: SoftmaxState) -> tuple[Tensor, Tensor]:
    """Both sums in units of one: the max alone is near zero at times, and only its difference counts."""
    size = average.max.exp()
    group = average.numerator.shape[-1] // size.shape[-1]
    return average.numerator * size.repeat_interleave(group, -1), average.denominator * size


def _held(cache: KVState, other: KVState) -> tuple[Tensor, list[Tensor]]:
    """What the rows of a cache hold, however it is laid out; a window may have left more in one of two."""
    most = min(c.keys.shape[2] + c.new_keys.shape[2] for c in (cache, other))
    whole = [torch.cat([cache[i], cache[i + 2]], 2) for i in (0, 1)]
    sizes = [min(p, most) for p in cache.position.tolist()]
    return cache.position, [x[b, :, x.shape[2] - n :] for x in whole for b, n in enumerate(sizes)]


def masks(batch: int, time: int, seed: int, rate: float = 0.2) -> tuple[Tensor, Tensor]:
    """reset [batch, time] with about `rate` cuts, and lengths [batch] in 0..time."""
    draw = torch.Generator().manual_seed(seed)
    reset = torch.rand(batch, time, generator=draw) < rate
    return reset, torch.randint(0, time + 1, (batch,), generator=draw)


def mutated(content: bytes, draw: random.Random) -> bytes:
    """A bit flipped, a piece cut out, doubled, overwritten or appended, or an end torn off.

    Of 10,000 such files (300 in CI), 4,000 are models, 4,000 checkpoints and 2,000 files of options.
    """
    at, size = draw.randrange(len(content)), draw.randrange(1, 9)
    piece = content[at : at + size]
    return draw.choice(
        [
            content[:at] + bytes([content[at] ^ 1 << draw.randrange(8)]) + content[at + 1 :],
            content[:at] + content[at + size :],
            content[:at] + piece + content[at:],
            content[:at] + draw.randbytes(size) + content[at + size :],
            content[:at] + draw.choice([b"0", b"9", b"-", b" ", b"\n", b'"', b"e"]) + content[at + 1 :],
            content[:at],
            content + draw.randbytes(size),
        ]
    )
