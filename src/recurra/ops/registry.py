"""How an op of this library is made known to PyTorch: its schema, its shapes, its derivative.

The dispatcher chooses the kernel. A derivative registered on an op serves autograd and compile, but
neither torch.func nor forward-mode AD, where it would be silently zero: while those are active, the
callers of `transforms_active` take a form that they can see through.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad

from recurra.ops.native.tape import recording
from recurra.ops.quantized import Quantized

_PLAIN = (Tensor, torch.nn.Parameter, Quantized, type(None))

LIBRARY = torch.library.Library("recurra", "DEF")


def forward_mode() -> bool:
    """True inside forward-mode AD, torch.func's included (not while compiling)."""
    return not torch.compiler.is_compiling() and forward_ad._current_level >= 0


def transforms_active() -> bool:
    """True inside torch.func transforms and forward-mode AD (not while compiling)."""
    if torch.compiler.is_compiling():
        return False
    return torch._C._are_functorch_transforms_active() or forward_mode()


def unobserved(*tensors: Tensor | Quantized | None) -> bool:
    """True where nothing would notice a kernel called past the dispatcher: no gradient, transform,
    tracing, autocast or subclass of Tensor. A step of a small layer is over before the dispatcher begins."""
    if torch.is_grad_enabled() or torch.compiler.is_compiling() or transforms_active():
        return False
    if torch.is_autocast_enabled("cpu") or torch._C._is_tracing():
        return False
    for x in tensors:
        if type(x) not in _PLAIN:
            return False
    # A tape looks for what is not a kernel; it may be passed by.
    return torch._C._len_torch_dispatch_stack() == int(recording())


def uncast(device: torch.device) -> AbstractContextManager[Any]:
    """In it products keep their dtype, also under autocast: what a recurrence feeds back must be exact."""
    if device.type == "meta" or not torch.is_autocast_enabled(device.type):
        return nullcontext()
    return torch.autocast(device.type, enabled=False)


def define(
    schema: str,
    *,
    fake: Callable[..., Any],
    setup: Callable[..., None],
    backward: Callable[..., Any],
    cpu: Callable[..., Any],
    cuda: Callable[..., Any] | None = None,
    other: Callable[..., Any] | None = None,
) -> Any:
    """Register one op and return it. `other` serves every device that has no kernel; None: no such device."""
    name = schema.split("(")[0]
    LIBRARY.define(schema, tags=(torch.Tag.pt2_compliant_tag,))
    LIBRARY.impl(name, cpu, "CPU")
    if cuda is not None:
        LIBRARY.impl(name, cuda, "CUDA")
    if other is not None:
        LIBRARY.impl(name, other, "CompositeExplicitAutograd")
    torch.library.register_fake(f"recurra::{name}", fake, lib=LIBRARY)
    torch.library.register_autograd(f"recurra::{name}", backward, setup_context=setup, lib=LIBRARY)
    return getattr(torch.ops.recurra, name).default


def pullback(f: Callable[..., Any], inputs: tuple[Tensor, ...], cotangents: Any) -> tuple[Tensor, ...]:
    """Gradients of f at `inputs`, themselves differentiable: the second derivative of fused ops."""
    pull = torch.func.vjp(f, *inputs)[1]
    gradients: tuple[Tensor, ...] = pull(cotangents)
    return gradients


def fold_batch(
    info: Any, in_dims: tuple[int | None, ...], *args: Any
) -> tuple[list[Any], Callable[[Tensor], Tensor]]:
    """vmap for ops whose tensors are all batch first: the mapped axis joins the batch axis."""

    def fold(x: Any, dim: int | None) -> Any:
        if not isinstance(x, Tensor):
            return x
        x = x.expand(info.batch_size, *x.shape) if dim is None else x.movedim(dim, 0)
        return x.flatten(0, 1)

    folded = [fold(x, d) for x, d in zip(args, in_dims, strict=True)]
    return folded, lambda y: y.unflatten(0, (info.batch_size, -1))
