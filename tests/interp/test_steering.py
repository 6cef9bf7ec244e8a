"""Steering: nothing at zero, one value in forward and step, along the line, undone behind it; its files."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from interop.peers import PEERS
from recurra import language_model
from recurra.blocks import BLOCKS
from recurra.interp import (
    Pair,
    Place,
    Writing,
    answers,
    by_chance,
    change,
    contrast,
    encode_pairs,
    load_vectors,
    read_pairs,
    record,
    save_vectors,
    steer,
    subject,
    sweep,
)
from recurra.interp.contents import contents, moved
from recurra.interp.subject import State
from recurra.state import OuterState, SLSTMState, SoftmaxState
from tools import close, leaves, same_state, wake

VOCABULARY, DEPTH = 23, 2
RECURRENT = [name for name in BLOCKS if name != "transformer"]
PAST = [name for name in PEERS if name.split(" ")[0] in {"mamba", "rwkv", "xlstm"}]
LOOSE = {"mlstm": 400.0, "xlstm_large": 400.0}
BLOCK, STATE = Place("block", 0), Place("state", 0)
every = pytest.mark.parametrize("name", BLOCKS)
any_model = pytest.mark.parametrize("name", [*BLOCKS, *(f"peer {name}" for name in PEERS)])
recurrent = pytest.mark.parametrize("name", [*RECURRENT, *(f"peer {name}" for name in PAST)])


def build(name: str) -> Any:
    torch.manual_seed(1)
    if name.startswith("peer "):
        return PEERS[name.removeprefix("peer ")].made()
    model = wake(language_model(name, VOCABULARY, 8, DEPTH)).eval()
    with torch.no_grad():
        for p in model.parameters():
            p.add_(torch.randn_like(p), alpha=0.2)
    return model


def pairs(count: int = 6) -> list[Pair]:
    """Prompts of two lengths; token 3 matches, 5 does not."""
    draw = torch.Generator().manual_seed(0)
    texts = [torch.randint(VOCABULARY, (4 + i % 2,), generator=draw).tolist() for i in range(count)]
    return [Pair(text, [3], [5]) for text in texts]


def drawn(time: int = 7) -> Tensor:
    return torch.randint(VOCABULARY, (2, time), generator=torch.Generator().manual_seed(5))


def stepped(model: Any, tokens: Tensor, state: Any = None) -> Tensor:
    logits = []
    for token in tokens.unbind(1):
        y, state = model.step(token, state)
        logits.append(y)
    return torch.stack(logits, 1)


def begun(name: str) -> tuple[Any, State, dict[Place, Tensor]]:
    """A model, its state after some text, and the contrast of a block and, unless of attention, its state."""
    model = build(name)
    fixed = name in RECURRENT or name.removeprefix("peer ") in PAST
    with torch.no_grad():
        _, state = subject(model).read(drawn())
    return model, state, contrast(model, pairs(), [BLOCK, STATE] if fixed else [BLOCK])


@any_model
@torch.no_grad()
def test_a_multiplier_of_zero_changes_nothing_and_nothing_stays(name: str) -> None:
    model, state, vectors = begun(name)
    whole, tokens = subject(model), drawn(3)
    want, _ = whole.read(tokens, state)
    with steer(model, vectors, 0.0, state) as same:
        assert whole.read(tokens, same)[0].equal(want)
        same_state(same, state, 0)
    kept = [x.clone() for x in leaves(state)]
    with pytest.raises(KeyError), steer(model, vectors, 2.0, state) as other:  # noqa: PT012
        assert not whole.read(tokens, other)[0].equal(want)
        raise KeyError
    assert whole.read(tokens, state)[0].equal(want)
    assert all(map(torch.equal, leaves(state), kept))
    assert not any(m._forward_hooks or m._forward_pre_hooks or "step" in vars(m) for m in model.modules())


@any_model
@torch.no_grad()
def test_contrast_is_the_difference_of_means(name: str) -> None:
    model, _, vectors = begun(name)
    whole, sides = subject(model), []
    for answer in (3, 5):
        values: dict[Place, list[Tensor]] = {place: [] for place in vectors}
        for pair in pairs():
            with record(model, [BLOCK]) as seen:
                _, state = whole.read(torch.tensor([[*pair.prompt, answer]]))
            values[BLOCK].append(seen[BLOCK][0][0, -1].float())
            if STATE in vectors:
                values[STATE].append(contents(whole, state[0])[0])
        sides.append({place: torch.stack(rows).mean(0) for place, rows in values.items()})
    for place, vector in vectors.items():
        close(vector, sides[0][place] - sides[1][place], 20000.0)


@every
@torch.no_grad()
def test_the_same_in_forward_step_and_generate(name: str) -> None:
    model, _, vectors = begun(name)
    tokens, chosen = drawn(), {BLOCK: vectors[BLOCK]}
    plain, _ = model(tokens)
    with steer(model, chosen, 3.0, start=3, end=6):
        whole, _ = model(tokens)
    with steer(model, chosen, 3.0, start=3, end=6):
        close(stepped(model, tokens), whole, LOOSE.get(name))
    assert whole[:, :3].equal(plain[:, :3])
    assert not whole[:, 3].equal(plain[:, 3])
    with steer(model, chosen, 3.0, start=6):
        made = torch.stack(list(model.generate(tokens, 3, temperature=0)), 1)
    with steer(model, chosen, 3.0, start=6):
        logits, _ = model(torch.cat([tokens, made], 1))
    assert made.equal(logits[:, 6:-1].argmax(-1))


@torch.no_grad()
def test_each_row_has_its_own_start() -> None:
    model, _, vectors = begun("mingru")
    tokens, chosen = drawn(), {BLOCK: vectors[BLOCK]}
    with steer(model, chosen, 3.0, start=[2, 5]):
        both, _ = model(tokens)
    for row, start in enumerate((2, 5)):
        with steer(model, chosen, 3.0, start=start):
            close(both[row], model(tokens)[0][row])
    ragged = [tokens[0].tolist(), tokens[1, :4].tolist()]
    with steer(model, chosen, 3.0, start=[6, 3]):
        made = torch.stack(list(model.generate(ragged, 2, temperature=0)), 1)
    for row, text in enumerate(ragged):
        with steer(model, chosen, 3.0, start=len(text) - 1):
            alone = torch.stack(list(model.generate(text, 2, temperature=0)), 1)
        assert made[row].equal(alone[0])


@recurrent
@torch.no_grad()
def test_a_state_is_moved_along_its_contents(name: str) -> None:
    """And back: forward, step and generate go on from it, for it is a state like any other."""
    model, state, vectors = begun(name)
    whole, by = subject(model), vectors[STATE]
    there = moved(whole, state, 0, 2 * by)
    now = contents(whole, there[0])
    for one, half, two in zip(leaves(state), leaves(moved(whole, state, 0, by)), leaves(there), strict=True):
        close(two - one, 2 * (half - one), 20000.0)
    # The matrices of an mLSTM are counted by the size of n, which has moved too.
    if "lstm" not in name or name in {"lstm", "minlstm", "slstm"}:
        close(now, contents(whole, state[0]) + 2 * by, 2000.0)
        back = moved(whole, there, 0, -2 * by)
        close(contents(whole, back[0]), contents(whole, state[0]), 2000.0)
    assert there[1] is state[1]
    assert all(x.isfinite().all() for x in leaves(there))
    if name in RECURRENT:
        tokens = drawn(4)
        close(stepped(model, tokens, there), model(tokens, there)[0], 2 * (LOOSE.get(name) or 100))


@torch.no_grad()
def test_units_make_no_difference() -> None:
    """The same averages, matrices and cells in other units move to the same."""

    def average(up: float) -> SoftmaxState:
        top, n, d = (torch.rand(2, size, generator=draw) for size in (2, 6, 2))
        return SoftmaxState(top + up, n * torch.tensor(-up).exp(), d * torch.tensor(-up).exp())

    def matrices(up: float) -> OuterState:
        c, n, top = (torch.rand(size, generator=draw) for size in ((2, 3, 4, 5), (2, 3, 4), (2, 3)))
        down = torch.tensor(-up).exp()
        return OuterState(c * down, n * down, top + up)

    def cell(up: float) -> SLSTMState:
        h, c, n, m = (torch.rand(2, 4, generator=draw) for _ in range(4))
        return SLSTMState(h, c * torch.tensor(-up).exp(), n * torch.tensor(-up).exp(), m + up)

    whole = subject(build("mingru"))
    counted = (torch.tensor([[3]]), torch.ones(1, 2))
    assert moved(whole, (counted,), 0, torch.ones(2))[0][0] is counted[0]
    for made in (average, matrices, cell):
        ends = []
        for up in (0.0, 1.5):
            draw = torch.Generator().manual_seed(0)
            state = made(up)
            by = torch.linspace(-1, 1, contents(whole, state).shape[1])
            ends.append(contents(whole, moved(whole, (state,), 0, by)[0]))
        close(ends[1], ends[0], 200)


@pytest.mark.parametrize("method", ["difference", "lda"])
def test_more_of_it_is_more_where_all_is_linear(method: str) -> None:
    """Steered behind the last block, where the head alone follows: without its norm, a straight line."""
    model = build("mingru")
    model.head.norm = torch.nn.Identity()
    data = [Pair([1, 2, i], [3], [5]) for i in range(12)]
    place = Place("block", DEPTH - 1)
    direction = contrast(model, data, [place], method)[place]
    weight = subject(model).unembedding
    if (direction @ (weight[3] - weight[5])).item() < 0:
        direction = -direction
    odds = [
        (made := answers(model, data, {place: direction}, m)).matching - made.other for m in (-1, 0, 1, 2.0)
    ]
    steps = torch.stack(odds).diff(dim=0)
    assert (steps > 0).all()
    close(steps, steps[:1].mean().expand_as(steps), 1e12)
    doses = sweep(model, data, {place: direction}, (-1.0, 0.0, 1.0, 2.0))
    assert [d.matching for d in doses] == sorted(d.matching for d in doses)
    assert doses[1].change == 0
    assert doses[1].p == 1
    assert doses[3].p < 0.01
    assert doses[3].low <= doses[3].change <= doses[3].high


def test_lda_is_fisher_s() -> None:
    model, data = build("minlstm"), pairs(40)
    values = []
    for answer in (3, 5):
        rows = []
        for pair in data:
            with torch.no_grad(), record(model, [BLOCK]) as seen:
                model(torch.tensor([[*pair.prompt, answer]]))
            rows.append(seen[BLOCK][0][0, -1].double())
        values.append(torch.stack(rows))
    pooled = sum(x.T.cov() * (len(x) - 1) for x in values) / (2 * len(data) - 2)
    want = torch.linalg.pinv(pooled) @ (values[0].mean(0) - values[1].mean(0))
    close(contrast(model, data, [BLOCK], "lda")[BLOCK], want.float(), 1e5)


@any_model
@torch.no_grad()
def test_a_sweep(name: str) -> None:
    model, _, vectors = begun(name)
    seen: list[Any] = []
    writing = Writing(3, lambda tokens: tokens.numel(), prompts=2)
    doses = sweep(model, pairs(4), vectors, (0.0, 2.0), writing, seen.append)
    assert seen == doses
    on = ["block", "block", *(["state", "state", "block+state", "block+state"] * (STATE in vectors))]
    assert [dose.on for dose in doses] == on
    assert all(0 <= d.matching <= 1 and 0 <= d.nonsense <= 1 and d.bits_per_byte > 0 for d in doses)
    assert all((d.change == 0) == (d.multiplier == 0) for d in doses)
    plain = [torch.tensor([pair.prompt]) for pair in pairs(4)]
    p = torch.stack([subject(model).read(text)[0][0, -1].double().softmax(-1) for text in plain])
    assert doses[0].matching == pytest.approx((p[:, 3] / (p[:, 3] + p[:, 5])).mean().item(), rel=1e-3)
    assert doses[0].nonsense == pytest.approx((1 - p[:, 3] - p[:, 5]).mean().item(), rel=1e-3)


def test_answers_of_several_tokens() -> None:
    model, answer, other = build("rwkv4"), [4, 5], [6, 7, 8]
    data = [Pair([1, 2, 3], answer, other), Pair([9, 2], [4], [6]), Pair([7, 7, 1], other, answer)]
    data.append(Pair([8, 3, 2], answer, other))
    made = answers(model, data, {}, 1.0)
    for i, pair in enumerate(data):
        for log_p, answer in ((made.matching, pair.matching), (made.other, pair.other)):
            with torch.no_grad():
                y = model(torch.tensor([[*pair.prompt, *answer[:-1]]]))[0][0].double().log_softmax(-1)
            want = y[len(pair.prompt) - 1 :].gather(-1, torch.tensor(answer)[:, None]).sum()
            close(log_p[i], want, 1e11)


def test_chance() -> None:
    draw = torch.Generator().manual_seed(0)
    before = torch.rand(60, generator=draw)
    noise = 0.1 * torch.randn(60, generator=draw)
    mean, low, high, p = change(before, before + noise)
    assert low < 0 < high
    assert p > 0.05
    mean, low, high, p = change(before, before + 0.1 + noise)
    assert 0 < low < mean < high
    assert p < 0.01
    assert change(before, before + noise) == change(before, before + noise)


@pytest.mark.parametrize(("sign", "least", "most"), [(1, 0.01, 0.1), (-1, 0.9, 1.0)])
def test_chance_of_a_direction(sign: int, least: float, most: float) -> None:
    """Hardly any goes as far as the one by which the head tells answers; all go further than its opposite."""
    model, place = build("mingru"), Place("block", DEPTH - 1)
    matching, other = subject(model).unembedding.detach()[[3, 5]]
    vectors = {place: sign * (matching - other)}
    (dose,) = sweep(model, pairs(), vectors, [1.0])
    assert least <= by_chance(model, pairs(), vectors, dose) <= most


def test_vectors_know_their_model(tmp_path: Path) -> None:
    model, _, vectors = begun("mamba")
    path = tmp_path / "v.safetensors"
    save_vectors(model, vectors, path)
    again = load_vectors(path, model)
    assert again.keys() == vectors.keys()
    assert all(again[place].equal(vectors[place]) for place in vectors)
    with pytest.raises(ValueError, match=r"v\.safetensors is of another model: its unembedding"):
        load_vectors(path, build("mingru"))
    save_file({"x": torch.zeros(1)}, path)
    with pytest.raises(ValueError, match=r"v\.safetensors holds no steering vectors"):
        load_vectors(path, model)


def test_files_of_pairs(tmp_path: Path) -> None:
    choice = {
        "question": "Stop?\n (A) Yes\n (B) No",
        "answer_matching_behavior": "(B)",
        "answer_not_matching_behavior": "(A)",
    }
    (tmp_path / "ab.json").write_text(json.dumps([choice]))
    rows = read_pairs(tmp_path / "ab.json", "Q: {}\n")
    assert rows == [("Q: Stop?\n (A) Yes\n (B) No\n(", "B", "A")]
    (tmp_path / "p.csv").write_text('prompt,matching,not_matching\n"a\nb",yes,no\n,one,other\n')
    rows = read_pairs(tmp_path / "p.csv")
    assert rows == [("a\nb", "yes", "no"), ("", "one", "other")]
    assert encode_pairs(rows, list)[1] == Pair([], list("one"), list("other"))  # type: ignore[arg-type]
    for text, said in (
        ("[]", "must hold at least one pair"),
        ("{", "is no file of pairs"),
        ('[{"prompt": "a"}]', "pair 0 must have the texts prompt, matching"),
        ('[{"prompt": "a", "matching": "b", "not_matching": "b"}]', "two answers that differ"),
    ):
        (tmp_path / "wrong.json").write_text(text)
        with pytest.raises(ValueError, match=rf"wrong\.json.* {said}"):
            read_pairs(tmp_path / "wrong.json")


def test_errors_name_the_argument() -> None:
    model, state, vectors = begun("mingru")
    with pytest.raises(ValueError, match="state must be of one size to be steered"):
        contrast(build("transformer"), pairs(), [STATE])
    with (
        pytest.raises(ValueError, match="state must be given to steer that of block 0"),
        steer(model, vectors, 1),
    ):
        pass
    with pytest.raises(ValueError, match=r"by must be \[\d+\] for the state of block 0, got \[3\]"):
        moved(subject(model), state, 0, torch.zeros(3))
    with (
        pytest.raises(ValueError, match=r"vectors must be \[8\] here, got \[3\]"),
        steer(model, {BLOCK: torch.zeros(3)}, 1.0),
    ):
        model(drawn())
    with pytest.raises(ValueError, match="method must be one of difference, lda, got 'pca'"):
        contrast(model, pairs(), [BLOCK], "pca")
    with pytest.raises(ValueError, match="at must be one of last, answer"):
        contrast(model, pairs(), [BLOCK], at="first")
    with pytest.raises(ValueError, match="pairs must hold at least 2, got 1"):
        contrast(model, pairs(1), [BLOCK], "lda")
    with pytest.raises(ValueError, match="prompts of at least two tokens and answers, see pair 0"):
        answers(model, [Pair([1], [2], [3])], {}, 0)
