"""A recorded step gives what the model's own step gives; what can't be recorded takes that one."""

import copy
import pickle
import sys
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from ops.recurrences import NATIVE
from recurra import language_model
from recurra.blocks import BLOCKS
from recurra.models import Pair, SequenceModel, SequenceToSequence
from recurra.models.encoder_decoder import encoder_decoder
from recurra.models.stepper import PlainStepper, RecordedStepper, renewed, stepper
from recurra.ops import native
from recurra.ops.outer import take_outer_step
from recurra.parts import Embedding
from recurra.state import OuterState, apply
from tools import close, same_state, wake

# The same kernels but for small products, which torch computes outside of a tape.
EPS = {torch.float32: 64.0, torch.float64: 64.0, torch.bfloat16: 16.0}
MODELS: dict[str, dict[str, Any]] = {
    "mingru": {},
    "minlstm": {"options": {"expansion": 1.5}},
    "mingru without conv and MLP": {"options": {"conv": 0, "mlp": 0.0}},
    "mingru with long filters, tied": {"options": {"conv": 7, "mlp": 2.5}, "tied": True},
    "s4": {},
    "s4d": {},
    "mamba": {},
    "mamba of few states": {"options": {"state": 5, "rank": 3, "conv": 1, "expansion": 1.5, "bias": True}},
    "s4d by the bilinear rule": {"options": {"states": 5, "discretisation": "bilinear"}},
    "s4d without MLP": {"options": {"states": 1, "mlp": 0.0, "norm": "layer"}},
    "transformer": {},
    "transformer with a window": {"options": {"window": 3, "heads": 5, "mlp": 0.0}},
    "transformer of one key": {"options": {"heads": 5, "kv_heads": 1, "head": 6, "qkv_bias": True}},
    "aaren": {},
    "aaren of one head without MLP": {"options": {"heads": 1, "mlp": 0.0}},
    "rwkv4": {},
    "rwkv5": {},
    "rwkv5 of two heads": {"options": {"heads": 2, "mlp": 0.0}},
    "xlstm_large": {"options": {"input_bias": 0.0}},
    "xlstm_large of five heads without MLP": {"options": {"heads": 5, "mlp": 0.0}},
    "rwkv4 without channel mix": {"options": {"mlp": 0.0, "norm": "rms"}},
    "gru": {},
    "lstm": {},
    "gru of few units without conv and MLP": {"options": {"expansion": 0.5, "conv": 0, "mlp": 0.0}},
    "slstm": {},
    "slstm of one head without conv and MLP": {"options": {"heads": 1, "conv": 0, "mlp": 0.0, "norm": "rms"}},
    "slstm of many heads": {"options": {"heads": 26}},
    "mlstm": {},
    "mlstm of two heads": {"options": {"heads": 2, "conv": 1, "expansion": 1.2, "norm": "rms"}},
    "mingru decoder": {"encoder": "mingru"},
    "transformer decoder, tied": {"encoder": "s4d", "tied": True},
    "lstm decoder without attention": {"encoder": "lstm", "cross": False},
}
every = pytest.mark.parametrize("name", MODELS)


def _model(name: str) -> Any:
    torch.manual_seed(0)
    options = {"vocabulary": 37, "width": 130, "depth": 2, **MODELS[name]}
    if encoder := options.pop("encoder", None):
        return wake(encoder_decoder(encoder, name.split()[0], **options)).eval()
    return wake(language_model(name.split()[0], **options)).eval()


def _begun(model: Any, batch: int) -> Any:
    tokens = torch.randint(0, 37, (batch, 5))
    lengths = 1 + torch.arange(batch) % 5
    with torch.no_grad():
        return model(Pair(tokens, lengths, tokens) if isinstance(model, SequenceToSequence) else tokens)[1]


@NATIVE
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("batch", [1, 3, 16])
@every
def test_recorded(name: str, batch: int, dtype: torch.dtype) -> None:
    model = _model(name).to(dtype)
    state = _begun(model, batch)
    before = apply(torch.clone, state)
    step, plain = stepper(model, state), PlainStepper(model, state)
    assert isinstance(step, RecordedStepper)
    with torch.no_grad():
        for token in torch.randint(0, 37, (6, batch)):
            close(step(token), plain(token), EPS[dtype])
    same_state(step.state, plain.state, EPS[dtype])
    same_state(state, before, 0)


@NATIVE
def test_capped_logits() -> None:
    model, token = _model("mingru"), torch.tensor([3, 5])
    model.head.cap = 0.5
    state = _begun(model, 2)
    step = stepper(model, state)
    assert isinstance(step, RecordedStepper)
    logits = step(token)
    assert 0.1 < logits.abs().max() < 0.5
    close(logits, PlainStepper(model, state)(token))


@NATIVE
@every
def test_other_rows(name: str) -> None:
    """Beam search goes on from some rows, in the memory that was recorded."""
    model, rows = _model(name), torch.tensor([2, 0, 0])
    state, (token, *rest) = _begun(model, 3), torch.randint(0, 37, (4, 3))
    step, plain = stepper(model, state), PlainStepper(model, state)
    with torch.no_grad():
        for each in (step, plain):
            each(token)
            each.select(rows)
        for token in rest:
            close(step(token), plain(token))
    same_state(step.state, plain.state)
    with pytest.raises(ValueError, match=r"rows must be \[3\], got \[1\]"):
        step.select(rows[:1])


@NATIVE
@pytest.mark.parametrize("name", ["transformer", "transformer with a window"])
def test_a_cache_without_room_is_moved(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.modules["recurra.ops.attention"], "ROOM", 4)
    model, prompts = _model(name), [[1, 2], [3, 4, 5, 6, 7, 8]]
    stream = model.generate(prompts, 30, temperature=0)
    got = torch.stack(list(stream), 1)
    monkeypatch.setattr(native, "takes", lambda *_: False)
    plain = model.generate(prompts, 30, temperature=0)
    assert got.equal(torch.stack(list(plain), 1))
    same_state(stream.state, plain.state)


@NATIVE
@pytest.mark.parametrize("name", BLOCKS)
def test_blocks_of_the_table(name: str) -> None:
    """What can't be recorded has become slow."""
    model = language_model(name, vocabulary=37, width=16, depth=1).eval()
    assert isinstance(stepper(model, _begun(model, 2)), RecordedStepper)
    assert {known.split()[0] for known in MODELS} == set(BLOCKS)


def _after(change: Callable[[Any], object], name: str) -> None:
    """The step and the plain one are the same before a change of the model, and after it."""
    model = _model(name)
    state, token = _begun(model, 2), torch.tensor([3, 5])
    step, plain = stepper(model, state), PlainStepper(model, state)
    with torch.no_grad():
        close(step(token), plain(token))
        change(model)
        step = renewed(step)
        close(step(token), plain(token))
    assert isinstance(step, RecordedStepper)
    assert not step.stale


@NATIVE
@every
def test_weights_changed_in_place_are_seen(name: str) -> None:
    def change(model: Any) -> None:
        for p in model.parameters():
            p.mul_(1.1)

    _after(change, name)


@NATIVE
def test_new_memory_of_what_constants_are_made_of_is_seen() -> None:
    def change(model: Any) -> None:
        layer = model.blocks[1].layer
        layer.log_dt.data = layer.log_dt + 1

    _after(change, "s4d")


class _Twice(nn.Module):
    def __init__(self, block: nn.Module) -> None:
        super().__init__()
        self.block = block

    def step(self, x: Tensor, state: Any) -> tuple[Tensor, Any]:
        y, state = self.block.step(x, state)
        return 2 * y, state


class _Louder(Embedding):
    def forward(self, tokens: Tensor) -> Tensor:
        return 2 * super().forward(tokens)


PLAIN = ["many rows", "torch in between", "no kernels", "no blocks", "a hook", "embedding"]


@pytest.mark.parametrize("kind", PLAIN)
def test_not_recordable(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = _model("mingru")
    if kind == "no blocks":
        model = SequenceModel(model.embed, [], model.head).eval()
    if kind == "a hook":
        model.blocks[0].mlp.register_forward_hook(lambda *_: None)
    if kind == "embedding":
        model.embed = _Louder(37, 130)
    state = _begun(model, 17 if kind == "many rows" else 2)
    if kind == "torch in between":
        model.blocks[1] = _Twice(model.blocks[1])
    if kind == "no kernels":
        monkeypatch.setattr(native, "takes", lambda *_: False)
    assert isinstance(stepper(model, state), PlainStepper)
    assert not native.recording()


@NATIVE
def test_one_tape_at_a_time() -> None:
    with native.Tape(), pytest.raises(RuntimeError, match="recorded already"), native.Tape():
        pass
    assert not native.recording()


@NATIVE
@torch.no_grad()
@pytest.mark.parametrize("replaced", [False, True])
def test_a_state_is_written_over_where_a_tape_says_so(replaced: bool) -> None:
    q, state = torch.rand(1, 2, 3), OuterState(torch.rand(1, 2, 3, 3), torch.rand(1, 2, 0), torch.rand(1, 0))
    c = state.c.clone()
    with native.Tape(state if replaced else ()):
        last = take_outer_step(q, q, q, q, None, state)[1]
    assert (last.c is state.c) == replaced
    assert state.c.equal(c) == (not replaced)


@NATIVE
def test_a_token_that_is_not_there() -> None:
    model = _model("mingru")
    with pytest.raises(IndexError):
        stepper(model, _begun(model, 1))(torch.tensor([37]))


def test_tokens_of_another_batch() -> None:
    """Written over the old ones they would move to where no kernel looks for them."""
    model = _model("mingru")
    step = stepper(model, _begun(model, 1))
    with torch.no_grad(), pytest.raises(ValueError, match=r"token|state"):
        step(torch.tensor([1, 2, 3]))


def _doubled(model: Any) -> None:
    model.double()


def _assigned(model: Any) -> None:
    model.load_state_dict({k: v.clone() for k, v in model.state_dict().items()}, assign=True)


def _other_threads(model: Any) -> None:
    torch.set_num_threads(torch.get_num_threads() + 1)


MOVES: list[Callable[[Any], object]] = [nn.Module.share_memory, _doubled, _assigned, _other_threads]


@pytest.mark.parametrize("move", MOVES)
def test_weights_that_move_while_it_writes(move: Callable[[Any], object]) -> None:
    model = _model("mingru")
    want = [int(x) for x in model.generate([1, 2], 9, temperature=0)]
    stream = model.generate([1, 2], 9, temperature=0)
    got = [int(next(stream)) for _ in range(4)]
    move(model)
    assert got + [int(x) for x in stream] == want


@pytest.mark.parametrize("how", [copy.deepcopy, lambda stream: pickle.loads(pickle.dumps(stream))])
def test_a_copied_stream_has_memory_of_its_own(how: Callable[[Any], Any]) -> None:
    stream = _model("mingru").generate([1, 2], 9, temperature=0)
    next(stream)
    copied = how(stream)
    assert [int(x) for x in copied] == [int(x) for x in stream]


@pytest.mark.parametrize("penalty", [1.0, 1.5])
def test_inference_mode_may_end_while_it_writes(penalty: float) -> None:
    model = _model("mingru")
    want = [int(x) for x in model.generate([1, 2], 9, temperature=0, repetition_penalty=penalty)]
    with torch.inference_mode():
        stream = model.generate([1, 2], 9, temperature=0, repetition_penalty=penalty)
        got = [int(next(stream)) for _ in range(4)]
    assert got + [int(x) for x in stream] == want
