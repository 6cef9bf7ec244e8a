"""The matrix memory of mLSTM and RWKV-5 on a GPU: what csrc/outer.h is on a CPU, in chunks of products.

One kernel carries the fp32 matrix from chunk to chunk, some keys and values a program, and writes down what
each chunk begins with; then every chunk reads by itself. Backwards the same, with the gradient of what a
chunk ends with; nothing is kept in between but inputs and states. With a gate, decays and gates are first
taken in units of the running max, after which it is the plain memory, divided. A key that decays by itself
costs an exponential for each pair of steps: its chunks are short. The block sizes are not yet measured on a
card.
"""

from functools import cache
from typing import Any, NamedTuple

import torch
from torch import Tensor

from recurra.ops import native
from recurra.ops.kernels.outer_keys import pull_keys
from recurra.ops.kernels.outer_read import read
from recurra.ops.kernels.outer_states import stabilise, walk
from recurra.ops.kernels.tiles import View
from recurra.ops.masks import cuts, living, widen
from recurra.ops.outer_forms import Inputs, contain
from recurra.state import OuterState

Tensors = tuple[Tensor, ...]
Optional = tuple[Tensor | None, ...]


class Plan(NamedTuple):
    """Steps of a chunk, keys and values of a tile, and warps."""

    steps: int
    keys: int
    values: int
    warps: int


@cache
def plan(of_keys: bool, exact: bool, keys: int, values: int) -> Plan:
    """By shape and dtype alone, so that results depend on nothing else. A product has 16 of all at least. An
    exact one, of fp32 without tensor cores, is written out: larger tiles compile for minutes and spill."""
    most = 32 if exact else 64
    key, value = (min(most, max(16, 1 << (size - 1).bit_length())) for size in (keys, values))
    return Plan(16, key, value, 4) if of_keys else Plan(most, key, value, 8)


def _view(x: Tensor) -> View:
    x = native.as_rows(x)
    return View(x, x.stride(0), x.stride(1))


class _Gates(NamedTuple):
    """In units of the max [B, T, H] so far: decays, what is taken of a step, one; and the last max [B, H].

    event [B, H]: where that stems from; 2 t + 1 if from the gate of step t, 2 t from a cut in front of it, -1
    from the first max.
    """

    decay: Tensor
    take: Tensor
    floor: Tensor
    last: Tensor
    event: Tensor


def _gates(decay: Tensor, gate: Tensor, top_0: Tensor, masks: Optional, scale: float) -> _Gates:
    (batch, time, heads), (reset, lengths) = decay.shape, masks
    # What is computed of them is laid out like them.
    decay, gate = decay.to(top_0.dtype).contiguous(), gate.to(top_0.dtype).contiguous()
    tops, last = top_0.new_empty(decay.shape), torch.empty_like(top_0)
    flags = None if reset is None else reset.view(torch.uint8)
    steps = min(128, 1 << (time - 1).bit_length())
    stabilise[(batch * heads,)](
        _view(decay), _view(gate), flags, lengths, top_0, tops, last, time, heads, LEN=steps
    )
    before = torch.cat([top_0[:, None], tops[:, :-1]], 1)
    cut = torch.zeros_like(decay, dtype=torch.bool) if reset is None else reset[..., None].expand(decay.shape)
    carried = decay + before.masked_fill(cut, 0)
    moment = 2 * torch.arange(time, device=decay.device)[:, None]
    event = torch.where(gate > carried, moment + 1, torch.where(cut, moment, -1))
    alive = living(lengths, time)
    event = event if alive is None else event.masked_fill(~alive[..., None], -1)
    take, floor = scale * (gate - tops).exp(), (-tops).clamp(-87.0, 88.0).exp()
    return _Gates(carried - tops, take, floor, last, event.amax(1))


class _Memory(NamedTuple):
    """What every launch over one memory shares; gates, bonus and masks where there are any."""

    inputs: Tensors  # q, k, v and the decays as chunks take them
    gates: _Gates | None
    bonus: Tensor | None
    masks: Optional
    scale: float
    plan: Plan

    @property
    def chunks(self) -> int:
        """Of a row of the batch."""
        return -(-self.inputs[0].shape[1] // self.plan.steps)

    @property
    def tiles(self) -> tuple[int, int]:
        """Of keys and of values."""
        q, _, v, _ = self.inputs
        return -(-q.shape[3] // self.plan.keys), -(-v.shape[3] // self.plan.values)

    def launch(
        self, kernel: Any, grid: tuple[int, int], args: tuple[Any, ...], scale: float, **how: bool
    ) -> None:
        """Run a kernel on a grid; scale: of what is not weighed by a gate."""
        (_, time, heads, keys), p, decay = self.inputs[0].shape, self.plan, self.inputs[3]
        # 16-bit inputs are exact in TF32; what they are multiplied with is cut off to it, not rounded.
        exact = "ieee" if self.inputs[0].dtype == torch.float32 else "tf32"
        kind = {"LAG": int(self.bonus is not None), "OF_KEYS": decay.ndim == 4, **how}
        tile = {"LEN": p.steps, "BLOCK_K": p.keys, "BLOCK_V": p.values, "num_warps": p.warps}
        sizes = (time, heads, keys, self.inputs[2].shape[3], self.chunks)
        # A chunk has few tiles: fetched ahead they took more shared memory than the 99 KB of small cards.
        stages = 3 if kernel is walk else 1
        kernel[grid](*args, *sizes, scale, PRECISION=exact, **kind, **tile, num_stages=stages)

    def walk(self, back: bool, columns: Tensor, sides: Optional, first: Tensors) -> tuple[Tensors, Tensors]:
        """What every chunk begins with, of matrices and sums of keys, and what the last one ends with; back:
        the gradients of what it ends with. sides: what a step weighs in the two."""
        q, k, v, decay = self.inputs
        batch, _, heads, keys = q.shape
        entering = first[0].new_empty(batch, heads, self.chunks, keys, v.shape[3])
        entering_n, last = first[1].new_empty(entering.shape[:-1]), tuple(map(torch.empty_like, first))
        steps = (_view(q if back else k), _view(columns), _view(decay), *sides, *self.masks)
        tiles = self.tiles
        states = (first[0], first[1], entering, entering_n, *last)
        scale = 1.0 if back or self.gates else self.scale
        self.launch(walk, (batch * heads, tiles[0] * tiles[1]), (*steps, *states), scale, BACK=back)
        return (entering, entering_n), last

    def read(
        self, columns: Tensor, side: Tensor | None, states: Tensors, out: Tensor, turned: bool
    ) -> Tensor:
        """y into out, and what it was divided by; or turned, the gradient of v."""
        q, k, _, decay = self.inputs
        gates = self.gates if self.gates and not turned else None
        divisors = states[0].new_empty(q.shape[:3])
        gain, floor = self.gates and self.gates.take, gates and gates.floor
        steps = (_view(q), _view(k), _view(columns), _view(decay), gain, side, floor, self.bonus, *self.masks)
        grid = (states[1].shape[:3].numel(), self.tiles[1])
        self.launch(read, grid, (*steps, *states, _view(out), divisors), self.scale, TURNED=turned)
        return divisors


def _memory(
    inputs: Tensors, gate: Tensor | None, bonus: Tensor | None, top_0: Tensor, masks: Optional, scale: float
) -> _Memory:
    q, k, v, decay = inputs
    gates = None if gate is None else _gates(decay, gate, top_0, masks, scale)
    reset, lengths = masks
    flags = None if reset is None else reset.view(torch.uint8)
    sizes = plan(decay.ndim == 4, q.dtype == torch.float32, q.shape[3], v.shape[3])
    taken = decay if gates is None else gates.decay
    return _Memory((q, k, v, taken), gates, bonus, (flags, lengths), scale, sizes)


def _contained(
    inputs: Tensors, gate: Tensor | None, state: Tensors, masks: Optional
) -> tuple[Inputs, Tensors, Tensor | None]:
    """`contain` where there are cuts: a product of tiles has steps of both sides, and 0 times NaN is NaN."""
    (q, k, v, decay), (reset, lengths) = inputs, masks
    given = Inputs(q, k, v, decay, gate)
    cut, alive = cuts(reset, lengths, False), living(lengths, q.shape[1])
    return (given, state, None) if cut is None else contain(given, OuterState(*state), cut, alive)


def _filled(xs: Tensors, mask: Tensor, value: float) -> Tensors:
    return tuple(x.masked_fill(widen(mask, x), value) for x in xs)


def outer(
    inputs: Tensors,
    gate: Tensor | None,
    bonus: Tensor | None,
    state: Tensors,
    masks: Optional,
    scale: float,
    keep: bool,
) -> tuple[Tensor, Tensors, Tensor]:
    """As `native.outer`; nothing is kept."""
    v, state = inputs[2], tuple(x.contiguous() for x in state)
    y, nothing = v.new_empty(v.shape), state[0].new_empty(0)
    if not y.numel():
        return y, tuple(x.clone() for x in state), nothing
    with torch.cuda.device_of(v):
        given, state, behind = _contained(inputs, gate, state, masks)
        memory = _memory(given[:4], given.gate, bonus, state[2], masks, scale)
        gates = memory.gates
        take, top = (None, state[2].clone()) if gates is None else (gates.take, gates.last)
        entering, last = memory.walk(False, given.v, (take, take), state[:2])
        memory.read(given.v, None, entering, y, False)
        last = (*last, top)
        if behind is not None:
            alive = living(masks[1], y.shape[1])
            (y,) = _filled((y,), behind[:, 1:] if alive is None else behind[:, 1:] & alive, torch.nan)
            last = _filled(last, behind[:, -1], torch.nan)
    return y, last, nothing


def _sides(memory: _Memory, dy: Tensor, entering: Tensors) -> tuple[Tensor, Tensor] | tuple[None, None]:
    """Of a numerator's gradient in that of y, and the gradients of the divisors, where they divide."""
    if memory.gates is None:
        return None, None
    y = torch.empty_like(dy, dtype=entering[0].dtype, memory_format=torch.contiguous_format)
    found, floor = memory.read(memory.inputs[2], None, entering, y, False), memory.gates.floor
    side, inner = 1 / torch.maximum(found.abs(), floor), (dy * y).sum(-1).contiguous()
    return side, torch.where(found.abs() < floor, 0, -inner / found)


def _pull_keys(
    memory: _Memory, dy: Tensor, sides: Optional, states: Tensors, grads: Tensors
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """dq, dk and of single keys ddecay into grads; returns ddecay of heads, dgate and dbonus, in fp32."""
    q, k, v, decay = memory.inputs
    (batch, time, heads, keys), tiles, like = q.shape, memory.tiles[0], states[0]
    of_heads = None if decay.ndim == 4 else like.new_empty(tiles, batch, time, heads)
    take = None if memory.gates is None else memory.gates.take
    dgate = None if take is None or of_heads is None else torch.empty_like(of_heads)
    dbonus = None if memory.bonus is None else like.new_empty(batch, heads, memory.chunks, keys)
    ddecay = _view(grads[3]) if of_heads is None else of_heads
    steps = (*map(_view, (q, k, v, dy, decay)), take, *sides, memory.bonus, *memory.masks)
    found = (_view(grads[0]), _view(grads[1]), ddecay, dgate, dbonus)
    memory.launch(pull_keys, (batch * heads * memory.chunks, tiles), (*steps, *states, *found), memory.scale)
    of_heads, dgate = (None if x is None else x.sum(0) for x in (of_heads, dgate))
    return of_heads, dgate, None if dbonus is None else dbonus.sum((0, 2))


def _product(x: Tensors, d: Tensors) -> Tensor:
    """Of matrices and sums of keys with their gradients, [B, H]."""
    return (x[0] * d[0]).sum((-2, -1)) + (x[1] * d[1]).sum(-1)


def _of_max(gates: _Gates, carried: Tensor, lengths: Tensor | None, time: int) -> Tensors:
    """What the gradient of the last max adds to those of decays, gates and the first max."""
    moment, event = torch.arange(time, device=carried.device)[:, None], gates.event[:, None]
    after, alive = moment >= (event + 1) // 2, living(lengths, time)
    after = after if alive is None else after & alive[..., None]
    every = carried[:, None]
    return after * every, (2 * moment + 1 == event) * every, (gates.event < 0) * carried


def outer_backward(
    cotangents: Tensors,
    inputs: Tensors,
    gate: Tensor | None,
    bonus: Tensor | None,
    states: tuple[Tensors, Tensors],
    entering: Tensor,
    masks: Optional,
    scale: float,
) -> tuple[Tensors, Tensor | None, Tensor | None, Tensors]:
    """As `native.outer_backward`; what chunks begin with is computed again."""
    first, last, seeds = (tuple(x.contiguous() for x in s) for s in (*states, cotangents[1:]))
    dy, grads = cotangents[0].to(inputs[0].dtype), tuple(x.new_empty(x.shape) for x in inputs)
    if not dy.numel():
        dgate, dbonus = (None if x is None else torch.zeros_like(x) for x in (gate, bonus))
        return grads, dgate, dbonus, tuple(x.clone() for x in seeds)
    with torch.cuda.device_of(dy):
        given, first, behind = _contained(inputs, gate, first, masks)
        if behind is not None:
            (dy,) = _filled((dy,), behind[:, 1:], 0)
            last, seeds = _filled(last, behind[:, -1], 0), _filled(seeds, behind[:, -1], 0)
        memory = _memory(given[:4], given.gate, bonus, first[2], masks, scale)
        take = None if memory.gates is None else memory.gates.take
        before, _ = memory.walk(False, given.v, (take, take), first[:2])
        sides = _sides(memory, dy, before)
        after, dfirst = memory.walk(True, dy, sides, seeds[:2])
        memory.read(dy, sides[0], after, grads[2], True)
        ddecay, dgate, dbonus = _pull_keys(memory, dy, sides, (*before, *after), grads)
    dtop = seeds[2].clone()
    if memory.gates is not None and ddecay is not None and dgate is not None:
        more = _of_max(memory.gates, seeds[2] - _product(last, seeds), masks[1], dy.shape[1])
        ddecay, dgate = ddecay + more[0], (dgate + more[1]).to(dy.dtype)
        dtop = _product(first, dfirst) + more[2]
    if ddecay is not None:
        grads[3].copy_(ddecay)
    return grads, dgate, dbonus, (*dfirst, dtop)
