"""The contract of nn.GRU and nn.LSTM, read off nn.GRU and nn.LSTM themselves."""

import copy
import inspect
import pickle
import re
import warnings
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pack_sequence, pad_packed_sequence

import recurra
from kinds import HIDDEN, INPUT, PEERS, STACKED, Kind, both_ways, each_kind, run
from recurra.layers.table import LAYERS
from tools import close, masks

BATCH, TIME = 3, 7
each = pytest.mark.parametrize("name", STACKED)
layouts = pytest.mark.parametrize("batch_first", [False, True], ids=["TBI", "BTI"])
orders = pytest.mark.parametrize("enforce_sorted", [True, False], ids=["sorted", "unsorted"])


def _both(name: str, *args: Any, **options: Any) -> tuple[Any, Any]:
    """Ours and torch's, made by the same call."""
    return LAYERS[name].module(*args, **options), PEERS[name](*args, **options)


def _shapes(result: Any) -> Any:
    """What a caller sees of (out, h_n) but the numbers."""
    if isinstance(result, Tensor):
        return result.dtype, result.shape
    if isinstance(result, PackedSequence):
        parts = [None if part is None else part.tolist() for part in result[1:]]
        return PackedSequence, _shapes(result.data), parts
    return type(result), [_shapes(part) for part in result]


def _state(name: str, *shape: int) -> Any:
    h = torch.randn(shape)
    return h if PEERS[name] is nn.GRU else (h, torch.randn(shape))


def _hidden(name: str, h_n: Any) -> Tensor:
    return h_n if PEERS[name] is nn.GRU else h_n[0]


@each
@layouts
@both_ways
@pytest.mark.parametrize("given", [False, True], ids=["none", "given"])
@pytest.mark.parametrize("dims", [2, 3], ids=["unbatched", "batched"])
def test_shapes(name: str, batch_first: bool, bidirectional: bool, given: bool, dims: int) -> None:
    ours, peer = _both(
        name, INPUT, HIDDEN, 2, True, batch_first=batch_first, dropout=0.5, bidirectional=bidirectional
    )
    batch = (BATCH,) if dims == 3 else ()
    axes = (*batch, TIME) if batch_first else (TIME, *batch)
    x = torch.randn(*axes, INPUT)
    hx = _state(name, 4 if bidirectional else 2, *batch, HIDDEN) if given else None
    assert _shapes(ours(x, hx)) == _shapes(peer(x, hx)) == _shapes(ours(input=x, hx=hx))
    assert ours(x)[0].is_contiguous()
    assert ours(x.transpose(0, 1).contiguous().transpose(0, 1))[0].is_contiguous()


@each
@both_ways
def test_layouts_and_unbatched_agree(name: str, bidirectional: bool) -> None:
    torch.manual_seed(1)
    first = LAYERS[name].module(INPUT, HIDDEN, 2, batch_first=True, bidirectional=bidirectional)
    torch.manual_seed(1)
    second = LAYERS[name].module(INPUT, HIDDEN, 2, bidirectional=bidirectional)
    x, (reset, lengths) = torch.randn(BATCH, TIME, INPUT), masks(BATCH, TIME, seed=1)
    out, h_n = run(first, x, reset=reset, lengths=lengths)
    major, major_n = run(second, x.transpose(0, 1).contiguous(), reset=reset.t(), lengths=lengths)
    close(major.transpose(0, 1), out)
    close(major_n, h_n)
    for row in range(BATCH):
        for rnn in (first, second):
            alone, alone_n = run(rnn, x[row], reset=reset[row], lengths=lengths[row])
            close(alone, out[row])
            close(alone_n, h_n[:, row])


@each
@layouts
@both_ways
@orders
@pytest.mark.parametrize("given", [False, True], ids=["none", "given"])
def test_packed(name: str, batch_first: bool, bidirectional: bool, enforce_sorted: bool, given: bool) -> None:
    ours, peer = _both(name, INPUT, HIDDEN, 2, batch_first=batch_first, bidirectional=bidirectional)
    lengths = torch.tensor([7, 4, 4, 1] if enforce_sorted else [4, 1, 7, 4])
    x = torch.randn(4, TIME, INPUT)
    hx = _state(name, 4 if bidirectional else 2, 4, HIDDEN) if given else None
    packed = pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=enforce_sorted)
    out, h_n = ours(packed, hx)
    assert _shapes((out, h_n)) == _shapes(peer(packed, hx))
    unpacked, ends = pad_packed_sequence(out, batch_first)
    assert ends.equal(lengths)
    want, want_n = ours(x if batch_first else x.transpose(0, 1), hx, lengths=lengths)
    close(unpacked, want)
    close(_hidden(name, h_n), _hidden(name, want_n))


@each
def test_packed_gradient(name: str) -> None:
    rnn = LAYERS[name].module(INPUT, HIDDEN, bidirectional=True)
    rows = [torch.randn(n, INPUT, requires_grad=True) for n in (2, 5, 3)]
    out, h_n = run(rnn, pack_sequence(rows, enforce_sorted=False))
    (out.data.sum() + h_n.sum()).backward()
    for row in rows:
        alone = row.detach().clone().requires_grad_()
        out, h_n = run(rnn, alone)
        (out.sum() + h_n.sum()).backward()
        close(row.grad, alone.grad)


@each
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_dtypes(name: str, dtype: torch.dtype) -> None:
    """h_n departs from nn.GRU in bf16 alone: a state is kept in at least fp32, and taken in both."""
    ours, peer = _both(name, INPUT, HIDDEN, dtype=dtype)
    x = torch.randn(TIME, BATCH, INPUT, dtype=dtype)
    out, h_n = run(ours, x)
    assert out.dtype == peer(x)[0].dtype
    assert h_n.dtype == torch.promote_types(dtype, torch.float32)
    for accepted in {dtype, h_n.dtype}:
        assert run(ours, x, h_n.to(accepted))[1].dtype == h_n.dtype


@each
def test_attributes_and_signature(name: str) -> None:
    ours, peer = _both(name, INPUT, HIDDEN, 3, False, True, 0.25, True)
    shared = "input_size hidden_size num_layers bias batch_first dropout bidirectional training"
    for attribute in shared.split():
        assert getattr(ours, attribute) == getattr(peer, attribute), attribute
    assert repr(ours).splitlines()[1].strip() == repr(peer).split("(", 1)[1][:-1]
    ours.flatten_parameters()
    names = list(inspect.signature(peer.forward).parameters)
    assert list(inspect.signature(ours.forward).parameters)[: len(names)] == names


@each
def test_dropout_acts_between_layers_while_training(name: str) -> None:
    rnn = LAYERS[name].module(INPUT, HIDDEN, 2, dropout=0.5)
    x = torch.randn(TIME, BATCH, INPUT)
    assert not rnn(x)[0].equal(rnn(x)[0])
    rnn.eval()
    assert rnn(x)[0].equal(rnn(x)[0])
    assert rnn.step(x[0])[0].equal(rnn.step(x[0])[0])
    rnn.train().dropout = 1.0
    last = rnn.layers[1](torch.zeros(BATCH, TIME, HIDDEN))[0]
    close(rnn(x)[0], last.transpose(0, 1))
    close(rnn.step(x[0])[0], last[:, 0])
    close(run(rnn, x)[1][0], torch.cat(tuple(rnn.layers[0](x.transpose(0, 1))[1]), -1))
    close(_hidden(name, rnn.step(x[0])[1])[0], rnn.layers[0].step(x[0])[0])


@each
def test_one_layer_with_dropout_warns_as_torch_does(name: str) -> None:
    with pytest.warns(UserWarning, match="num_layers=1"):
        PEERS[name](INPUT, HIDDEN, dropout=0.5)
    with pytest.warns(UserWarning, match="num_layers=1") as caught:
        LAYERS[name].module(INPUT, HIDDEN, dropout=0.5)
    assert caught[0].filename == __file__


@each
@pytest.mark.parametrize(("time", "batch"), [(0, 3), (3, 0), (0, 0)])
@both_ways
def test_empty(name: str, time: int, batch: int, bidirectional: bool) -> None:
    """No time (which nn.GRU refuses) leaves the state as it was."""
    rnn = LAYERS[name].module(INPUT, HIDDEN, 2, bidirectional=bidirectional)
    x = torch.randn(time, batch, INPUT, requires_grad=True)
    h_0 = torch.randn(len(rnn.layers), batch, HIDDEN * len(rnn.STATE))
    out, h_n = run(rnn, x, h_0)
    assert out.shape == (time, batch, HIDDEN * (2 if bidirectional else 1))
    assert h_n.shape == h_0.shape
    assert time > 0 or h_n.equal(h_0)
    out.sum().backward()


# ----------------------------------------------------------------------------------------------
# Errors.


def _wrong(name: str) -> dict[str, tuple[tuple[Any, ...], str]]:
    """Calls that nn.GRU refuses too, and what ours must name."""
    x = torch.randn(TIME, BATCH, INPUT)
    return {
        "features": ((torch.randn(TIME, BATCH, 4),), "input must be [time, batch, 5], got [7, 3, 4]"),
        "1-D": ((torch.randn(INPUT),), "input must be [time, batch, 5], got [5]"),
        "4-D": ((x[None],), "input must be [time, batch, 5], got [1, 7, 3, 5]"),
        "dtype": ((x.double(),), "input is torch.float64, the weights are torch.float32"),
        "batch": ((x, _state(name, 1, 4, HIDDEN)), "[1, 3, 6], got [1, 4, 6]"),
        "depth": ((x, _state(name, 2, BATCH, HIDDEN)), "[1, 3, 6], got [2, 3, 6]"),
        "width": ((x, _state(name, 1, BATCH, 5)), "[1, 3, 6], got [1, 3, 5]"),
        "flat state": ((x, _state(name, 1, HIDDEN)), "[1, 3, 6], got [1, 6]"),
        "deep state": ((x[:, 0], _state(name, 1, 1, HIDDEN)), "[1, 6], got [1, 1, 6]"),
    }


@each
@pytest.mark.parametrize("case", list(_wrong("mingru")))
def test_what_torch_refuses(name: str, case: str) -> None:
    ours, peer = _both(name, INPUT, HIDDEN)
    args, said = _wrong(name)[case]
    with pytest.raises((RuntimeError, ValueError)):
        peer(*args)
    with pytest.raises(ValueError, match=re.escape(said)):
        ours(*args)


@each
@pytest.mark.parametrize(
    ("args", "options", "error"),
    [
        ((0, 6), {}, ValueError),
        ((5, 0), {}, ValueError),
        ((5, 6, 0), {}, ValueError),
        ((5.0, 6), {}, TypeError),
        ((5, 6), {"dropout": 1.5}, ValueError),
        ((5, 6), {"dropout": True}, ValueError),
        ((5, 6, 2, 0.5), {}, TypeError),
        ((5, 6), {"batch_first": 1}, TypeError),
        ((5, 6), {"unknown": 1}, TypeError),
    ],
)
def test_wrong_construction(name: str, args: tuple[Any, ...], options: dict[str, Any], error: type) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with pytest.raises(error):
            PEERS[name](*args, **options)
        with pytest.raises(error):
            LAYERS[name].module(*args, **options)


@each_kind
def test_states_of_another_kind(kind: Kind) -> None:
    rnn, x = kind.stack(1), torch.randn(BATCH, TIME, INPUT)
    h = torch.randn(1, BATCH, HIDDEN)
    for wrong in (h.long(), h.double(), h.to(torch.complex64), h.to("meta")):
        with pytest.raises(ValueError, match=f"{rnn.STATE[0]} must be like input, torch.float32 on cpu"):
            run(rnn, x, wrong)
        with pytest.raises(ValueError, match=f"{rnn.STATE[0]} must be like input"):
            rnn.step(x[:, 0], wrong if PEERS[kind.name] is nn.GRU else (wrong, wrong))


def test_a_tensor_is_no_pair_and_a_pair_no_tensor() -> None:
    x, h = torch.randn(TIME, 2, INPUT), torch.randn(2, 2, HIDDEN)
    with pytest.raises(TypeError, match=re.escape("hx must be a pair (h_0, c_0), got a tensor [2, 2, 6]")):
        recurra.MinLSTM(INPUT, HIDDEN, 2)(x, h)
    with pytest.raises(TypeError, match=re.escape("hx must be a pair (h_0, c_0), got a tensor [2, 2, 6]")):
        recurra.MinLSTM(INPUT, HIDDEN, 2).step(x[0], h)
    with pytest.raises(ValueError, match=re.escape("h_0 [1, 2, 6] and c_0 [2, 2, 6] must have one shape")):
        recurra.MinLSTM(INPUT, HIDDEN, 2)(x, (h[:1], h))
    with pytest.raises(TypeError, match="hx must be a tensor, got tuple"):
        recurra.MinGRU(INPUT, HIDDEN, 2)(x, (h, h))


def test_minlstm_carries_c() -> None:
    rnn, x = recurra.MinLSTM(INPUT, HIDDEN), torch.randn(TIME, BATCH, INPUT)
    c_0 = torch.randn(1, BATCH, HIDDEN)
    out, (h_n, c_n) = rnn(x, (torch.full_like(c_0, float("nan")), c_0))
    assert h_n.equal(c_n)
    assert h_n[0].equal(out[-1])


@each_kind
@layouts
def test_masks_follow_the_layout_of_input(kind: Kind, batch_first: bool) -> None:
    rnn = kind.stack(1)
    rnn.batch_first = batch_first
    x = torch.randn(BATCH, TIME, INPUT)
    x = x if batch_first else x.transpose(0, 1)
    named = "[batch, time] = [3, 7]" if batch_first else "[time, batch] = [7, 3]"
    other = torch.zeros(TIME, BATCH) if batch_first else torch.zeros(BATCH, TIME)
    with pytest.raises(ValueError, match=re.escape(f"reset must be {named}, the layout of input")):
        rnn(x, reset=other.bool())
    with pytest.raises(ValueError, match=re.escape("reset must be torch.bool")):
        rnn(x, reset=other.t())
    with pytest.raises(ValueError, match=re.escape("lengths must be integers [batch] = [3]")):
        rnn(x, lengths=torch.tensor([1, 2]))
    with pytest.raises(ValueError, match=re.escape("lengths must lie in 0..7")):
        rnn(x, lengths=torch.tensor([1, 2, 8]))


@each_kind
def test_packed_takes_neither_lengths_nor_reset(kind: Kind) -> None:
    packed = pack_sequence([torch.randn(3, INPUT)])
    with pytest.raises(ValueError, match="lengths and reset go with a padded input"):
        kind.stack()(packed, lengths=torch.tensor([3]))
    with pytest.raises(ValueError, match="lengths and reset go with a padded input"):
        kind.stack()(packed, reset=torch.zeros(3, 1, dtype=torch.bool))
    with pytest.raises(ValueError, match=re.escape("[4, 1, 6], got [4, 2, 6]")):
        run(kind.stack(bidirectional=True), packed, torch.randn(4, 2, HIDDEN))


@each_kind
def test_no_step_backwards(kind: Kind) -> None:
    with pytest.raises(ValueError, match="bidirectional=True"):
        kind.stack(bidirectional=True).step(torch.randn(BATCH, INPUT))
    with pytest.raises(ValueError, match="reverse=True"):
        kind.layer(reverse=True).step(torch.randn(BATCH, INPUT))
    with pytest.raises(ValueError, match=re.escape("x_t must be [batch, 5], got [3, 7, 5]")):
        kind.stack().step(torch.randn(BATCH, TIME, INPUT))


# ----------------------------------------------------------------------------------------------
# Code around an nn.GRU that must go on running.


class Tagger(nn.Module):
    """A page of user code: nothing in it knows which recurrence it has."""

    def __init__(self, rnn: nn.Module) -> None:
        super().__init__()
        self.rnn = rnn
        self.head = nn.Linear(rnn.hidden_size * (2 if rnn.bidirectional else 1), 2)

    def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
        self.rnn.flatten_parameters()
        packed = pack_padded_sequence(x, lengths, batch_first=self.rnn.batch_first, enforce_sorted=False)
        out, _ = pad_packed_sequence(self.rnn(packed)[0], self.rnn.batch_first)
        return self.head(out.reshape(-1, out.shape[-1]))


@each
def test_a_users_model_trains(name: str) -> None:
    x, lengths = torch.randn(BATCH, TIME, INPUT), torch.tensor([3, 7, 5])
    for rnn in _both(name, INPUT, HIDDEN, num_layers=2, batch_first=True, bidirectional=True):
        model = Tagger(rnn)
        optimizer = torch.optim.Adam(model.parameters(), 0.02)
        losses = []
        for _ in range(10):
            loss = model(x, lengths).square().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        assert losses[-1] < losses[0] / 2


@each
def test_truncated_backpropagation(name: str) -> None:
    for rnn in _both(name, INPUT, HIDDEN):
        hx = None
        for _ in range(3):
            out, hx = rnn(torch.randn(TIME, BATCH, INPUT), hx)
            out.sum().backward()
            hx = hx.detach() if isinstance(hx, Tensor) else tuple(h.detach() for h in hx)


@each_kind
def test_copies_and_checkpoints(kind: Kind) -> None:
    rnn, x = kind.stack(bidirectional=True, **kind.learned), torch.randn(BATCH, TIME, INPUT)
    want = rnn(x)[0]
    other = kind.stack(bidirectional=True, **kind.learned)
    assert not other(x)[0].equal(want)
    other.load_state_dict(rnn.state_dict())
    for copied in (other, copy.deepcopy(rnn), pickle.loads(pickle.dumps(rnn))):
        assert copied(x)[0].equal(want)
        assert copied.layers[0].weight_ih is not rnn.layers[0].weight_ih


@each_kind
def test_other_devices_and_late_initialisation(kind: Kind) -> None:
    rnn = kind.stack(device="meta")
    out, h_n = run(rnn, torch.empty(BATCH, TIME, INPUT, device="meta"))
    assert (out.shape, out.device.type, h_n.device.type) == ((BATCH, TIME, HIDDEN), "meta", "meta")
    torch.manual_seed(3)
    rnn.to_empty(device="cpu").reset_parameters()
    torch.manual_seed(3)
    for p, q in zip(rnn.parameters(), kind.stack().parameters(), strict=True):
        assert p.equal(q)
