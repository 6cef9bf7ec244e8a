"""What the tests share: one table of tolerances, one measure of error, drawn masks."""

import torch
from torch import Tensor

# Relative RMS error in units of the dtype's eps. 64 is generous for exact arithmetic carried through
# thousands of steps; bf16 rounds only what goes in and what comes out (2 eps), the rest is fp32.
TOLERANCE: dict[torch.dtype, float] = {
    torch.float64: 64,
    torch.float32: 64,
    torch.bfloat16: 4,
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


def masks(batch: int, time: int, seed: int, rate: float = 0.2) -> tuple[Tensor, Tensor]:
    """reset [batch, time] with about `rate` cuts, and lengths [batch] in 0..time."""
    draw = torch.Generator().manual_seed(seed)
    reset = torch.rand(batch, time, generator=draw) < rate
    return reset, torch.randint(0, time + 1, (batch,), generator=draw)
