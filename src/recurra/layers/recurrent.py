"""Stacks of layers under the contract of nn.GRU and nn.LSTM; `MinGRU` and `MinLSTM` here."""

import warnings
from collections.abc import Callable
from functools import partial
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn.functional import dropout as drop
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pad_packed_sequence

from recurra.layers.linear_layer import check_input
from recurra.layers.mingru import MinGRULayer
from recurra.layers.minlstm import MinLSTMLayer
from recurra.ops.linear import state_dtype

__all__ = ["MinGRU", "MinLSTM"]

Sequence = Tensor | PackedSequence
# What a layer carries, each part [layers * directions, batch, hidden].
States = tuple[Tensor, ...]


def _check_sizes(input_size: int, hidden_size: int, num_layers: int) -> None:
    sizes = {"input_size": input_size, "hidden_size": hidden_size, "num_layers": num_layers}
    for name, size in sizes.items():
        if not isinstance(size, int):
            raise TypeError(f"{name} must be an int, got {type(size).__name__}")
        if size <= 0:
            raise ValueError(f"{name} must be greater than zero, got {size}")


def _check_flags(bias: bool, batch_first: bool, bidirectional: bool) -> None:
    flags = {"bias": bias, "batch_first": batch_first, "bidirectional": bidirectional}
    for name, flag in flags.items():
        if not isinstance(flag, bool):
            raise TypeError(f"{name} must be a bool, got {type(flag).__name__}")


def _check_dropout(dropout: float, num_layers: int) -> None:
    if isinstance(dropout, bool) or not 0 <= dropout <= 1:
        raise ValueError(f"dropout must be a probability in [0, 1], got {dropout}")
    if dropout and num_layers == 1:
        warnings.warn(
            f"dropout={dropout} acts between layers, and there is only one: num_layers=1", stacklevel=4
        )


class Recurrent(nn.Module):
    """A stack of layers of one kind, the layout of nn.GRU outside and of the layers ([B, T, ...]) inside.

    `make(input_size, reverse=...)` builds one layer; `layers` holds them layer by layer, the forward
    direction first, which is the order of h_0 and h_n. Inside, a state is a tuple of such tensors, one
    for each part of the layer's own `State`; STATE has their names.
    """

    STATE: ClassVar[tuple[str, ...]] = ("hx",)
    # A ModuleList of layers: torch's type forgets of what.
    layers: Any

    def __init__(
        self,
        make: Callable[..., nn.Module],
        input_size: int,
        hidden_size: int,
        num_layers: int,
        bias: bool,
        batch_first: bool,
        dropout: float,
        bidirectional: bool,
    ) -> None:
        super().__init__()
        _check_sizes(input_size, hidden_size, num_layers)
        _check_flags(bias, batch_first, bidirectional)
        _check_dropout(dropout, num_layers)
        self.input_size, self.hidden_size, self.num_layers = input_size, hidden_size, num_layers
        self.bias, self.batch_first, self.bidirectional = bias, batch_first, bidirectional
        self.dropout = float(dropout)
        directions = (False, True) if bidirectional else (False,)
        widths = [input_size] + [len(directions) * hidden_size] * (num_layers - 1)
        self.layers = nn.ModuleList(make(width, reverse=way) for width in widths for way in directions)

    def reset_parameters(self) -> None:
        """Draw the parameters of every layer anew."""
        for layer in self.layers:
            layer.reset_parameters()

    def flatten_parameters(self) -> None:
        """Nothing to do: here so that code written for nn.GRU runs."""

    def extra_repr(self) -> str:
        said = [f"{self.input_size}, {self.hidden_size}"]
        defaults = {
            "num_layers": 1,
            "bias": True,
            "batch_first": False,
            "dropout": 0.0,
            "bidirectional": False,
        }
        said += [f"{k}={getattr(self, k)}" for k, default in defaults.items() if getattr(self, k) != default]
        return ", ".join(said)

    def _swap(self, x: Tensor) -> Tensor:
        """Between the layout of the user and [B, T, ...], without a copy."""
        return x if self.batch_first else x.transpose(0, 1)

    def _check(self, x: Tensor, hx: States | None, reset: Tensor | None) -> None:
        padded = ("batch", "time") if self.batch_first else ("time", "batch")
        axes = ("time",) if x.ndim == 2 else padded
        check_input("input", x, axes, self.layers[0].weight_ih)
        if hx is not None:
            batch = tuple(n for axis, n in zip(axes, x.shape, strict=False) if axis == "batch")
            self._check_states(hx, x, batch)
        if reset is not None and reset.shape != x.shape[:-1]:
            want = f"[{', '.join(axes)}] = {list(x.shape[:-1])}"
            raise ValueError(f"reset must be {want}, the layout of input, got {list(reset.shape)}")

    def _check_states(self, hx: States, x: Tensor, batch: tuple[int, ...]) -> None:
        for name, h in zip(self.STATE, hx, strict=True):
            self._check_state(name, h, x, batch)

    def _check_state(self, name: str, h: Tensor, x: Tensor, batch: tuple[int, ...]) -> None:
        if not isinstance(h, Tensor):
            raise TypeError(f"{name} must be a tensor, got {type(h).__name__}")
        shape = (self.num_layers * (2 if self.bidirectional else 1), *batch, self.hidden_size)
        if h.shape != shape:
            axes = "layers * directions, batch, hidden" if batch else "layers * directions, hidden"
            raise ValueError(f"{name} must be [{axes}] = {list(shape)}, got {list(h.shape)}")
        known = h.dtype == x.dtype or h.dtype == state_dtype(x.dtype)
        if not known or h.device != x.device:
            want, got = f"{x.dtype} on {x.device}", f"{h.dtype} on {h.device}"
            raise ValueError(f"{name} must be like input, {want}, got {got}")

    def _run(
        self, x: Sequence, hx: States | None, lengths: Tensor | None, reset: Tensor | None
    ) -> tuple[Sequence, States]:
        if isinstance(x, PackedSequence):
            return self._run_packed(x, hx, lengths, reset)
        self._check(x, hx, reset)
        if x.ndim == 3:
            return self._stack(x, hx, lengths, reset)
        dim = 0 if self.batch_first else 1
        out, ends = self._stack(
            x.unsqueeze(dim),
            None if hx is None else tuple(h.unsqueeze(1) for h in hx),
            None if lengths is None else lengths.unsqueeze(0),
            None if reset is None else reset.unsqueeze(dim),
        )
        return out.squeeze(dim), tuple(end.squeeze(1) for end in ends)

    def _run_packed(
        self, packed: PackedSequence, hx: States | None, lengths: Tensor | None, reset: Tensor | None
    ) -> tuple[PackedSequence, States]:
        """Padded in the packed order, longest first; hx and the last state are in the order of the user."""
        if lengths is not None or reset is not None:
            raise ValueError("lengths and reset go with a padded input, and this one is a PackedSequence")
        data, sizes, order, back = packed
        if hx is not None:
            self._check_states(hx, data, (int(sizes[0]),))
            hx = _select(hx, order)
        x, steps = pad_packed_sequence(PackedSequence(data, sizes), self.batch_first)
        self._check(x, None, None)
        out, ends = self._stack(x, hx, steps, None)
        rows = pack_padded_sequence(out, steps, self.batch_first).data
        return PackedSequence(rows, sizes, order, back), _select(ends, back)

    def _stack(
        self, x: Tensor, hx: States | None, lengths: Tensor | None, reset: Tensor | None
    ) -> tuple[Tensor, States]:
        directions = 2 if self.bidirectional else 1
        reset = None if reset is None else self._swap(reset)
        states = self._apart(hx)
        ends: list[Any] = []
        for depth in range(self.num_layers):
            x = drop(x, self.dropout, self.training) if depth and self.dropout else x
            ys = []
            for i in range(depth * directions, (depth + 1) * directions):
                y, end = self.layers[i](self._swap(x), states[i], reset, lengths)
                ys.append(self._swap(y))
                ends.append(end)
            x = ys[0] if directions == 1 else torch.cat(ys, -1)
        return x.contiguous(), _together(ends)

    def _apart(self, hx: States | None) -> list[Any]:
        """The state of every layer."""
        # Past the attribute lookup of nn.Module, half a microsecond.
        layers: Any = self._modules["layers"]
        if hx is None:
            return [None] * len(layers)
        return [layers[0].State(*parts) for parts in zip(*[h.unbind(0) for h in hx], strict=True)]

    def _step(self, x_t: Tensor, hx: States | None) -> tuple[Tensor, States]:
        if self.bidirectional:
            raise ValueError("bidirectional=True reads the sequence from both ends: it has no step")
        if hx is not None:
            self._check_states(hx, x_t, x_t.shape[:1])
        layers: Any = self._modules["layers"]
        ends: list[Any] = []
        for layer, state in zip(layers, self._apart(hx), strict=True):
            x_t = drop(x_t, self.dropout, self.training) if ends and self.dropout else x_t
            x_t, end = layer.step(x_t, state)
            ends.append(end)
        return x_t, _together(ends)


def _together(ends: list[Any]) -> States:
    """The states of all layers, part by part; a stack of one is a view, which a single step notices."""
    if len(ends) == 1:
        return tuple([part.unsqueeze(0) for part in ends[0]])
    return tuple([torch.stack(parts) for parts in zip(*ends, strict=True)])


def _select(hx: States, rows: Tensor | None) -> States:
    return hx if rows is None else tuple(h.index_select(1, rows) for h in hx)


class LikeGRU(Recurrent):
    """The calls of nn.GRU: one state, a tensor."""

    def forward(
        self,
        input: Sequence,  # noqa: A002 - nn.GRU's name
        hx: Tensor | None = None,
        *,
        lengths: Tensor | None = None,
        reset: Tensor | None = None,
    ) -> tuple[Sequence, Tensor]:
        """(output, h_n)."""
        out, (h_n,) = self._run(input, None if hx is None else (hx,), lengths, reset)
        return out, h_n

    def step(self, x_t: Tensor, hx: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """(h_t of the last layer [B, H], h_n) from x_t [B, I]. Raises ValueError if bidirectional."""
        y, (h_n,) = self._step(x_t, None if hx is None else (hx,))
        return y, h_n


class LikeLSTM(Recurrent):
    """The calls of nn.LSTM: a pair (h, c); a layer with one state takes c and gives it as both."""

    def forward(
        self,
        input: Sequence,  # noqa: A002 - nn.LSTM's name
        hx: tuple[Tensor, Tensor] | None = None,
        *,
        lengths: Tensor | None = None,
        reset: Tensor | None = None,
    ) -> tuple[Sequence, tuple[Tensor, Tensor]]:
        """(output, (h_n, c_n))."""
        out, ends = self._run(input, self._read(hx), lengths, reset)
        return out, (ends[0], ends[-1])

    def step(
        self, x_t: Tensor, hx: tuple[Tensor, Tensor] | None = None
    ) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """(h_t of the last layer [B, H], (h_n, c_n)) from x_t [B, I]. Raises ValueError if bidirectional."""
        y, ends = self._step(x_t, self._read(hx))
        return y, (ends[0], ends[-1])

    def _read(self, hx: Any) -> States | None:
        """What the layers take of (h_0, c_0)."""
        return None if hx is None else _pair(hx)[-len(self.STATE) :]


def _pair(hx: Any) -> States:
    """(h_0, c_0), checked to be that."""
    if not isinstance(hx, tuple | list) or len(hx) != 2:
        got = f"a tensor {list(hx.shape)}" if isinstance(hx, Tensor) else f"{type(hx).__name__}"
        raise TypeError(f"hx must be a pair (h_0, c_0), got {got}")
    h_0: Tensor = hx[0]
    c_0: Tensor = hx[1]
    if h_0.shape != c_0.shape:
        raise ValueError(f"h_0 {list(h_0.shape)} and c_0 {list(c_0.shape)} must have one shape")
    return h_0, c_0


class MinGRU(LikeGRU):
    """minGRU (arXiv 2410.01201, section 3.1; `MinGRULayer`) in the place of `torch.nn.GRU`.

    input [T, B, I], [B, T, I] with batch_first, [T, I] or a PackedSequence; hx, h_n [layers *
    directions, B, H], h_n in at least fp32 and differentiable; lengths [B]: each row ends there, its
    output beyond is zero; reset, bool in the layout of input: True forgets all before that step.
    dropout acts between layers. candidate, forget_bias and learned_state as in `MinGRULayer`.
    Departs from nn.GRU: drawn as nn.Linear draws; a gate sees x_t only, so that one layer is weak
    where gates need context: stack two or three. Raises ValueError that names the argument.
    """

    def __init__(  # noqa: PLR0913 - the signature of torch.nn, and what the paper adds
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        *,
        candidate: str = "positive",
        forget_bias: float = 0.0,
        learned_state: bool = False,
    ) -> None:
        make = partial(
            MinGRULayer,
            hidden_size=hidden_size,
            bias=bias,
            candidate=candidate,
            forget_bias=forget_bias,
            learned_state=learned_state,
            device=device,
            dtype=dtype,
        )
        super().__init__(make, input_size, hidden_size, num_layers, bias, batch_first, dropout, bidirectional)


class MinLSTM(LikeLSTM):
    """minLSTM (arXiv 2410.01201, section 3.2; `MinLSTMLayer`) in the place of `torch.nn.LSTM`.

    As `MinGRU`, but takes and returns a pair (h, c). minLSTM has one state: it is taken from c_0 (h_0
    is checked for its shape and not read), and h_n is c_n. normalized as in `MinLSTMLayer`.
    Raises TypeError where hx is no pair: a tensor would be unpacked along its layers.
    """

    STATE: ClassVar[tuple[str, ...]] = ("c_0",)

    def __init__(  # noqa: PLR0913 - the signature of torch.nn, and what the paper adds
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        *,
        candidate: str = "positive",
        normalized: bool = True,
        forget_bias: float = 0.0,
        learned_state: bool = False,
    ) -> None:
        make = partial(
            MinLSTMLayer,
            hidden_size=hidden_size,
            bias=bias,
            candidate=candidate,
            normalized=normalized,
            forget_bias=forget_bias,
            learned_state=learned_state,
            device=device,
            dtype=dtype,
        )
        super().__init__(make, input_size, hidden_size, num_layers, bias, batch_first, dropout, bidirectional)
