"""The states that recurrences carry, and what one can do with them.

A state is a tensor or any nesting of tuples, lists and the NamedTuples below, batch first. It is an
argument and a result of every op, layer, block and model, and never a module attribute.
"""

import json
import os
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeVar, cast

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor
from torch.nn.functional import pad

__all__ = [
    "ConvState",
    "GRUState",
    "KVState",
    "LSTMState",
    "LinearState",
    "MLSTMState",
    "MambaState",
    "MinRNNState",
    "OuterState",
    "RWKV4State",
    "RWKV5State",
    "SLSTMBlockState",
    "SLSTMState",
    "SelectiveState",
    "ShiftState",
    "SoftmaxState",
    "apply",
    "concatenate",
    "detach",
    "grows",
    "load",
    "save",
    "select",
    "to",
]

S = TypeVar("S")


class LinearState(NamedTuple):
    """State of h_t = a_t h_{t-1} + b_t: the last h, [B, ...], at least fp32."""

    h: Tensor


class ConvState(NamedTuple):
    """State of a causal convolution of width K: the last K - 1 inputs, oldest first, [B, K-1, D]."""

    x: Tensor


class ShiftState(NamedTuple):
    """State of the token shift: the last input, [B, D]."""

    x: Tensor


class GRUState(NamedTuple):
    """State of a GRU: the last h, [B, H], at least fp32."""

    h: Tensor


class LSTMState(NamedTuple):
    """State of an LSTM: the last h, which gates read, and the cell c, [B, H], at least fp32."""

    h: Tensor
    c: Tensor


class SLSTMState(NamedTuple):
    """State of an sLSTM: the last h, the cell c and its normaliser n, both in units of e^m; [B, H] each.

    At least fp32. Where n is 0 nothing has been read yet: zeros are the empty state, whatever c and m.
    """

    h: Tensor
    c: Tensor
    n: Tensor
    m: Tensor


class KVState(NamedTuple):
    """State of attention: keys and values of the steps it may still read, [B, H, S, C], the newest last.

    In the dtype of the model; grows with time unless a window bounds it. The newest few stand apart in
    new_*, so that a step copies no more than those. position [B]: steps since the row's start or reset;
    of S entries the row's are the last `position`, what stands before them is nobody's and finite.
    """

    keys: Tensor
    values: Tensor
    new_keys: Tensor
    new_values: Tensor
    position: Tensor


class SoftmaxState(NamedTuple):
    """State of running softmax averages: sum e^s v [B, D] and sum e^s [B, H], both divided by e^max.

    max [B, H]. Where the denominator is 0 nothing has been read yet: zeros are the empty state.
    """

    max: Tensor
    numerator: Tensor
    denominator: Tensor


class RWKV4State(NamedTuple):
    """State of an RWKV-4 block: the last input of the time mix, its averages, that of the channel mix.

    Without a channel mix there is no such input, as in `ConvState` of one tap.
    """

    time: ConvState
    average: SoftmaxState
    channel: ConvState


class SelectiveState(NamedTuple):
    """State of the selective recurrence: the last h, N states for each of D channels, [B, N, D]."""

    h: Tensor


class OuterState(NamedTuple):
    """State of C_t = f C_{t-1} + i k v': c [B, H, K, V], at least fp32; with a gate in units of e^max.

    n [B, H, K] is the same of values of one, max [B, H]; both empty, [B, H, 0] and [B, 0], without a gate.
    """

    c: Tensor
    n: Tensor
    max: Tensor


class RWKV5State(NamedTuple):
    """State of an RWKV-5 block: as that of RWKV-4, with a matrix for each head in place of averages."""

    time: ConvState
    memory: OuterState
    channel: ConvState


class MambaState(NamedTuple):
    """State of a Mamba block: that of its convolution and of its selective recurrence."""

    conv: ConvState
    ssm: SelectiveState


class SLSTMBlockState(NamedTuple):
    """State of an sLSTM block: that of its convolution (no inputs without one) and of its cell."""

    conv: ConvState
    cell: SLSTMState


class MLSTMState(NamedTuple):
    """State of an mLSTM block: that of its convolution, and the matrices of its heads."""

    conv: ConvState
    memory: OuterState


class MinRNNState(NamedTuple):
    """State of a minRNN block: that of its convolution (no inputs without one) and of its layer."""

    conv: ConvState
    layer: Any


KINDS: dict[str, type] = {
    kind.__name__: kind
    for kind in (
        LinearState,
        ConvState,
        ShiftState,
        GRUState,
        LSTMState,
        SLSTMState,
        SLSTMBlockState,
        KVState,
        SoftmaxState,
        RWKV4State,
        RWKV5State,
        SelectiveState,
        MambaState,
        MLSTMState,
        MinRNNState,
        OuterState,
    )
}


def _structure(state: Any) -> Any:
    return (type(state), len(state)) if isinstance(state, tuple | list) else isinstance(state, Tensor)


def apply(f: Callable[..., Any], *states: S) -> S:
    """f of each tensor of a state, or of the tensors at one place of several; in the same structure."""
    first: Any = states[0]
    if not isinstance(first, Tensor | tuple | list):
        raise TypeError(f"state must be made of tensors, tuples and lists, got {type(first).__name__}")
    if any(_structure(s) != _structure(first) for s in states):
        raise ValueError("states differ in structure")
    if isinstance(first, Tensor):
        return cast(S, f(*states))
    parts = [apply(f, *parts) for parts in zip(*cast(Any, states), strict=True)]
    return cast(S, type(first)(*parts) if hasattr(first, "_fields") else type(first)(parts))


def grows(state: Any) -> bool:
    """Whether it is the state of attention, or has one in it."""
    inner = isinstance(state, tuple | list) and any(map(grows, state))
    return inner or isinstance(state, KVState)


def detach(state: S) -> S:
    """The same state cut from the graph that made it (truncated back-propagation through time)."""
    return apply(Tensor.detach, state)


def to(state: S, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> S:
    """The same state on another device or in another dtype, whose complex sibling complex parts take."""

    def move(x: Tensor) -> Tensor:
        if dtype is None or not (x.is_floating_point() or x.is_complex()):
            return x.to(device=device)
        return x.to(device=device, dtype=dtype.to_complex() if x.is_complex() else dtype)

    return apply(move, state)


def _index(rows: Tensor | Sequence[int] | slice, size: int) -> Tensor:
    if isinstance(rows, slice):
        return torch.tensor(range(size)[rows], dtype=torch.int64)
    index = torch.as_tensor(rows)
    if index.dtype == torch.bool:
        if tuple(index.shape) != (size,):
            raise IndexError(f"rows is a mask of {list(index.shape)}, the state has {size} rows")
        return index.nonzero().flatten()
    if index.is_floating_point() and index.numel():
        raise TypeError(f"rows must be integers, a mask or a slice, got {index.dtype}")
    return index.long()


def select(state: S, rows: Tensor | Sequence[int] | slice, dim: int = 0) -> S:
    """Rows of the batch, in the order given; `dim=1` for the [layers, B, H] layout of torch.nn.

    rows: integers, a mask or a slice. Raises IndexError for a row that is not there.
    """
    return apply(lambda x: x.index_select(dim, _index(rows, x.shape[dim]).to(x.device)), state)


def concatenate(states: Sequence[S], dim: int = 0) -> S:
    """One state of all the rows, in order; key-value caches may differ in length.

    Raises ValueError where the structures differ.
    """
    if not states:
        raise ValueError("states must hold at least one state")
    return apply(lambda *xs: torch.cat(xs, dim), *_level(states))


def _level(states: Sequence[S]) -> Sequence[S]:
    """The same states, but caches are made as long as the longest of them."""
    first: Any = states[0]
    if isinstance(first, Tensor) or any(_structure(s) != _structure(first) for s in states):
        return states
    if isinstance(first, KVState):
        return cast(Sequence[S], _padded(cast(Any, states)))
    columns = [_level(parts) for parts in zip(*cast(Any, states), strict=True)]
    rows = zip(*columns, strict=True) if columns else [()] * len(states)
    make: Any = type(first)
    return [make(*row) if hasattr(first, "_fields") else make(row) for row in rows]


def _padded(caches: Sequence[KVState]) -> list[KVState]:
    longest = max(c.keys.shape[2] + c.new_keys.shape[2] for c in caches)

    def whole(old: Tensor, new: Tensor) -> Tensor:
        return pad(torch.cat([old, new], 2), (0, 0, longest - old.shape[2] - new.shape[2], 0))

    return [
        KVState(
            whole(c.keys, c.new_keys),
            whole(c.values, c.new_values),
            c.new_keys[:, :, :0],
            c.new_values[:, :, :0],
            c.position,
        )
        for c in caches
    ]


def _describe(state: Any, tensors: list[Tensor]) -> Any:
    if isinstance(state, Tensor):
        if state.is_complex():  # of which the file format has no double precision
            pairs = torch.view_as_real(state.resolve_conj())
            return {"kind": "complex", "parts": [_describe(pairs, tensors)]}
        tensors.append(state)
        return len(tensors) - 1
    kind = type(state).__name__
    if kind not in KINDS and type(state) not in (tuple, list):
        raise TypeError(f"state holds a {kind}, which can't be saved; known are {', '.join(KINDS)}")
    return {"kind": kind, "parts": [_describe(part, tensors) for part in state]}


def _restore(tree: Any, tensors: dict[str, Tensor]) -> Any:
    if isinstance(tree, int):
        return tensors.pop(str(tree))
    parts = [_restore(part, tensors) for part in tree["parts"]]
    if tree["kind"] == "complex":
        return torch.view_as_complex(*parts)
    if tree["kind"] in KINDS:
        return KINDS[tree["kind"]](*parts)
    return {"tuple": tuple, "list": list}[tree["kind"]](parts)


def save(state: Any, path: str | os.PathLike[str]) -> None:
    """Write a state to one safetensors file: whole or not at all, also when killed meanwhile."""
    path = Path(path)
    tensors: list[Tensor] = []
    tree = json.dumps(_describe(state, tensors))
    named = {str(i): x.detach().cpu().contiguous().clone() for i, x in enumerate(tensors)}
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        draft = Path(folder) / path.name
        save_file(named, draft, metadata={"recurra_state": tree})
        with draft.open("rb") as f:
            os.fsync(f.fileno())
        draft.replace(path)


def load(path: str | os.PathLike[str], device: torch.device | str = "cpu") -> Any:
    """Read what `save` wrote. Raises ValueError, naming the file, where it holds anything else."""
    try:
        with safe_open(path, framework="pt", device=str(device)) as f:
            tree = json.loads((f.metadata() or {})["recurra_state"])
            tensors = {name: f.get_tensor(name) for name in f.keys()}  # noqa: SIM118
            state = _restore(tree, tensors)
    except (SafetensorError, KeyError, RuntimeError, TypeError, ValueError) as e:
        raise ValueError(f"{os.fspath(path)} is not a recurra state file: {e!r}") from e
    if tensors:
        raise ValueError(f"{os.fspath(path)} is not a recurra state file: it also holds {', '.join(tensors)}")
    return state
