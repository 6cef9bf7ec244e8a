"""Our kernels in place of what transformers falls back to on a CPU, in a model that stays theirs."""

import inspect
from collections.abc import Callable
from functools import partial
from types import TracebackType
from typing import Any, Generic, TypeVar

from torch import nn

from recurra.interop.accelerated import general, mamba, rwkv, xlstm
from recurra.interop.accelerated.steps import Recordings

__all__ = ["Acceleration", "accelerate", "decelerate"]

M = TypeVar("M", bound=nn.Module)

_MAMBA = "transformers.models.mamba.modeling_mamba."
_RWKV = "transformers.models.rwkv.modeling_rwkv."
_XLSTM = "transformers.models.xlstm.modeling_xlstm."
_AUTHORS = "xlstm.xlstm_large."

# By the class that has the forward method: what takes its place. A model has at least one of these.
FAMILIES: dict[str, Callable[..., Any]] = {
    _MAMBA + "MambaMixer": mamba.mixer,
    _RWKV + "RwkvSelfAttention": rwkv.attention,
    _XLSTM + "xLSTMBackend": xlstm.memory,
    "mlstm_kernels.torch.backend_module.mLSTMBackend": xlstm.authors_memory,
}
# What there is beside them.
OTHERS: dict[str, Callable[..., Any]] = {
    "torch.nn.modules.linear.Linear": general.linear,
    "torch.nn.modules.normalization.LayerNorm": general.layer_norm,
    _MAMBA + "MambaRMSNorm": general.rms_norm,
    _RWKV + "RwkvFeedForward": rwkv.feed_forward,
    _XLSTM + "xLSTMRMSNorm": xlstm.rms_norm,
    _XLSTM + "xLSTMMultiHeadLayerNorm": xlstm.head_layer_norm,
    _XLSTM + "xLSTMFeedForward": xlstm.feed_forward,
    _AUTHORS + "components.RMSNorm": xlstm.rms_norm,
    _AUTHORS + "components.MultiHeadLayerNorm": xlstm.head_layer_norm,
    _AUTHORS + "model.FeedForward": xlstm.feed_forward,
}
# Blocks, which remember recorded steps.
BLOCKS: dict[str, Callable[..., Any]] = {
    _MAMBA + "MambaBlock": mamba.block,
    _RWKV + "RwkvBlock": rwkv.block,
    _XLSTM + "xLSTMBlock": xlstm.block,
    _AUTHORS + "model.mLSTMBlock": xlstm.block,
}
KNOWN = FAMILIES | OTHERS | BLOCKS
MODELS = "Mamba (as in MambaForCausalLM), RWKV-4 (RwkvForCausalLM) or xLSTM (xLSTMForCausalLM)"
_OURS = frozenset(KNOWN.values())


class Acceleration(Generic[M]):
    """What one call of `accelerate` has changed; as a context manager it gives the model, and undoes it."""

    def __init__(self, model: M, modules: list[nn.Module]) -> None:
        self.model, self._modules = model, modules

    def __enter__(self) -> M:
        return self.model

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        _restore(self._modules)

    def __repr__(self) -> str:
        return f"Acceleration({type(self.model).__name__}, {len(self._modules)} modules)"


def accelerate(model: M) -> Acceleration[M]:
    """Mamba, RWKV-4 and xLSTM of transformers on our kernels; class, weights, files, generate are kept.

    The forward of its mixers, norms, linear maps and blocks is replaced, in these objects alone, until
    `decelerate(model)` or the end of `with accelerate(model):`. A second call changes nothing. What the
    kernels can't serve takes the model's own code: other devices, tensors of another kind, several tokens
    behind a Mamba cache. Also for models around one, as adapters and wrappers are. Raises TypeError for a
    model that holds no such block, or one of a version of transformers whose methods are not known.
    """
    found = {module: name for module in model.modules() if (name := _known(module)) is not None}
    if not any(name in FAMILIES for name in found.values()):
        raise TypeError(f"model must hold blocks of {MODELS} of transformers, got {type(model).__name__}")
    changed = [module for module in found if "forward" not in vars(module)]
    for module in changed:
        memory = (Recordings(),) if found[module] in BLOCKS else ()
        # Not a method: one that is kept in an object comes out of a pickle as that of the class.
        vars(module)["forward"] = partial(KNOWN[found[module]], module, *memory)
    return Acceleration(model, changed)


def decelerate(model: nn.Module) -> None:
    """Every module of the model as `accelerate` found it; one that it has not changed stays as it is."""
    _restore(list(model.modules()))


def _restore(modules: list[nn.Module]) -> None:
    for module in modules:
        forward = vars(module).get("forward")
        if isinstance(forward, partial) and forward.func in _OURS:
            del vars(module)["forward"]


def _known(module: nn.Module) -> str | None:
    """The name in `KNOWN` of the class that has the module's forward method. Raises TypeError."""
    owner = next(kind for kind in type(module).__mro__ if "forward" in vars(kind))
    name = f"{owner.__module__}.{owner.__qualname__}"
    if name not in KNOWN:
        return None
    theirs, ours = _arguments(owner.forward), _arguments(KNOWN[name])  # type: ignore[attr-defined]
    if ours[1 + (name in BLOCKS) :][: len(theirs) - 1] != theirs[1:]:
        raise TypeError(f"{name}.forward takes {', '.join(theirs)}: this version is not known")
    return name


def _arguments(forward: Callable[..., Any]) -> list[str]:
    """Their names; theirs may take more than they use."""
    return [p.name for p in inspect.signature(forward).parameters.values() if p.kind is not p.VAR_KEYWORD]
