"""Generation: greedy is the argmax loop, each choice of the sampler, prompts of any lengths, its state."""

from itertools import islice

import pytest
import torch
from torch import Tensor

import recurra
from recurra.models import SequenceModel, generate
from recurra.models.generate import Sampler

VOCABULARY = 13
PROMPTS = [[1, 2, 3, 4, 5, 6, 7], [8], [9, 3, 9, 3]]


RECURRENT = [["mingru", "minlstm"], ["mingru"], ["mamba"], ["s4d"], ["s4"]]


@pytest.fixture(name="model", params=[*RECURRENT, ["transformer"]], ids="-".join)
def _model(request: pytest.FixtureRequest) -> SequenceModel:
    return recurra.language_model(request.param, VOCABULARY, 8)


def _greedy(model: SequenceModel, prompt: list[int], steps: int) -> list[int]:
    """The argmax loop, which reads everything anew for each token."""
    tokens = list(prompt)
    for _ in range(steps):
        tokens.append(int(model(torch.tensor([tokens]))[0][0, -1].argmax()))
    return tokens[len(prompt) :]


def _rows(stream: object) -> list[list[int]]:
    return torch.stack(list(stream), 1).tolist()


@pytest.mark.parametrize("window", [2, 3, 4096])
def test_greedy_is_the_argmax_loop(
    model: SequenceModel, window: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(generate, "_WINDOW", window)
    want = [_greedy(model, prompt, 6) for prompt in PROMPTS]
    assert _rows(model.generate(PROMPTS, 6, temperature=0)) == want
    assert _rows(model.generate(PROMPTS[0], 6, temperature=0)) == want[:1]
    assert _rows(model.generate(torch.tensor(PROMPTS[2]), 6, temperature=0)) == want[2:]
    assert _rows(model.generate(torch.tensor([PROMPTS[2]] * 2), 6, temperature=0)) == want[2:] * 2


def test_state_goes_on(model: SequenceModel) -> None:
    want = _rows(model.generate(PROMPTS, 9, temperature=0))
    stream = model.generate(PROMPTS, 4, temperature=0)
    first = [next(stream) for _ in range(3)]
    # Looking at the state in between changes nothing.
    assert stream.state
    first += list(stream)
    kept = [recurra.state.select(block, [0, 1, 2]) for block in stream.state]
    following = torch.tensor([[row[4]] for row in want])
    rest = model.generate(following, 4, temperature=0, state=tuple(kept))
    assert [
        [*row, int(token[0]), *more]
        for row, token, more in zip(torch.stack(first, 1).tolist(), following, _rows(rest), strict=True)
    ] == want


def test_seed(model: SequenceModel) -> None:
    draws = [_rows(model.generate(PROMPTS, 20, seed=seed)) for seed in (1, 1, 2)]
    assert draws[0] == draws[1] != draws[2]
    before = torch.get_rng_state()
    _rows(model.generate(PROMPTS, 3, seed=1))
    assert torch.get_rng_state().equal(before)
    torch.manual_seed(1)
    free = _rows(model.generate(PROMPTS, 20))
    torch.manual_seed(1)
    assert free == _rows(model.generate(PROMPTS, 20))


def test_steps(model: SequenceModel) -> None:
    assert not list(model.generate(PROMPTS, 0))
    assert len(list(islice(model.generate(PROMPTS, 10**12), 3))) == 3


def test_no_graph_and_no_dropout() -> None:
    model = recurra.language_model("mingru", VOCABULARY, 8, 2, options={"dropout": 0.5})
    assert model.training
    stream = model.generate(PROMPTS, 5, temperature=0)
    want = _rows(stream)
    assert model.training
    assert want == _rows(model.generate(PROMPTS, 5, temperature=0))
    assert not stream.state[0].layer.h.requires_grad
    assert torch.is_grad_enabled()


@pytest.mark.parametrize("model", RECURRENT, ids="-".join, indirect=True)
def test_memory_is_constant(model: SequenceModel) -> None:
    """Nothing a stream holds is larger after 200 steps than after one."""
    stream = model.generate(PROMPTS, 201, repetition_penalty=1.1)

    def held() -> int:
        leaves = torch.utils._pytree.tree_leaves((vars(stream), stream.state))
        return sum(x.untyped_storage().nbytes() for x in leaves if isinstance(x, Tensor))

    next(stream)
    first = held()
    list(stream)
    assert held() == first


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ({"temperature": -1.0}, "temperature must not be negative"),
        ({"temperature": float("nan")}, "temperature must not be negative"),
        ({"top_k": -1}, "top_k must not be negative"),
        ({"top_p": 0.0}, "top_p must lie in"),
        ({"top_p": 1.1}, "top_p must lie in"),
        ({"repetition_penalty": 0.0}, "repetition_penalty must be greater than zero"),
        ({"steps": -1}, "steps must not be negative"),
        ({"prompts": []}, "prompts must hold at least one token each"),
        ({"prompts": [[1], []]}, r"prompts must hold at least one token each, got \[0\] in row 1"),
        ({"prompts": torch.zeros(0, 3)}, "prompts must hold at least one row"),
    ],
)
def test_errors_name_the_argument(model: SequenceModel, how: dict[str, object], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        model.generate(**{"prompts": PROMPTS, "steps": 3, **how})


# ----------------------------------------------------------------------------------------------
# The sampler alone.

LOGITS = torch.tensor([[2.0, -1.0, 1.0, 0.5, -3.0]])


def _drawn(sampler: Sampler, logits: Tensor = LOGITS, seen: Tensor | None = None) -> Tensor:
    """Share of each token in 20,000 draws."""
    generator = torch.Generator().manual_seed(0)
    tokens = sampler.draw(logits.expand(20_000, -1), seen, generator)
    return tokens.bincount(minlength=logits.shape[-1]) / len(tokens)


def _near(shares: Tensor, want: Tensor) -> None:
    assert (shares - want).abs().max() < 0.015
    assert not shares[want == 0].any()


def test_temperature() -> None:
    for temperature in (0.5, 1.0, 3.0):
        _near(_drawn(Sampler(temperature)), (LOGITS[0] / temperature).softmax(-1))
    assert _drawn(Sampler(0.0))[0] == 1


def test_top_k() -> None:
    p = torch.tensor([2.0, float("-inf"), 1.0, 0.5, float("-inf")]).softmax(-1)
    _near(_drawn(Sampler(top_k=3)), p)
    assert _drawn(Sampler(top_k=1))[0] == 1
    for all_of_them in (0, 5, 99):
        _near(_drawn(Sampler(top_k=all_of_them)), LOGITS[0].softmax(-1))


def test_top_p() -> None:
    """The fewest tokens that reach p, the one that crosses it included."""
    p = LOGITS[0].softmax(-1)
    two = torch.tensor([2.0, float("-inf"), 1.0, float("-inf"), float("-inf")]).softmax(-1)
    _near(_drawn(Sampler(top_p=float(p[0]) + 0.01)), two)
    assert _drawn(Sampler(top_p=0.01))[0] == 1
    # After top_k, of what that has left.
    assert _drawn(Sampler(top_k=2, top_p=float(two[0]) - 0.01))[0] == 1


def test_repetition_penalty() -> None:
    seen = torch.tensor([[True, True, False, False, False]])
    want = torch.tensor([2.0 / 1.5, -1.0 * 1.5, 1.0, 0.5, -3.0]).softmax(-1)
    _near(_drawn(Sampler(repetition_penalty=1.5), seen=seen), want)


def test_repetition_penalty_counts_prompt_and_tokens(model: SequenceModel) -> None:
    """So heavy a penalty that no token comes twice while there are others."""
    rows = _rows(model.generate(PROMPTS, 6, temperature=0, repetition_penalty=1e6))
    for prompt, row in zip(PROMPTS, rows, strict=True):
        logits, _ = model(torch.tensor([prompt]))
        positive = [t for t in range(VOCABULARY) if t not in prompt and logits[0, -1, t] > 0]
        assert row[0] in positive
    padding_is_no_token = _rows(model.generate([[5] * 7, [1]], 1, temperature=0, repetition_penalty=1e6))
    alone = _rows(model.generate([1], 1, temperature=0, repetition_penalty=1e6))
    assert padding_is_no_token[1] == alone[0]
