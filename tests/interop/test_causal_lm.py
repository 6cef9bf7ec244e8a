"""Every block as transformers runs it: what `generate` gives is what the model gives, padded or not."""

import copy
import itertools
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, DynamicCache

import recurra
from ops.recurrences import NATIVE
from recurra.blocks import BLOCKS
from recurra.interop.cache import RecurraCache
from recurra.interop.causal_lm import RecurraForCausalLM, wrap
from recurra.models.stepper import RecordedStepper
from tools import close, leaves, same_state, wake

VOCABULARY, WIDTH, STEPS = 11, 8, 5
PROMPTS = [[1, 2, 3, 4, 5, 6], [7, 8], [9, 3, 9, 3]]
LONGEST = 6
GREEDY = {"max_new_tokens": STEPS, "do_sample": False}
every = pytest.mark.parametrize("name", BLOCKS)


def _wrapped(name: str, vocabulary: int = VOCABULARY, **options: Any) -> RecurraForCausalLM:
    torch.manual_seed(0)
    return wrap(wake(recurra.language_model(name, vocabulary, WIDTH, 2, **options)).double().eval())


def _padded(rows: list[list[int]]) -> dict[str, Tensor]:
    """Rows with a token in front of the shorter ones, and the mask that says that it is none."""
    missing = [max(map(len, rows)) - len(row) for row in rows]
    tokens = [[3] * n + row for n, row in zip(missing, rows, strict=True)]
    mask = [[0] * n + [1] * len(row) for n, row in zip(missing, rows, strict=True)]
    return {"input_ids": torch.tensor(tokens), "attention_mask": torch.tensor(mask)}


def _greedy(lm: RecurraForCausalLM, rows: list[list[int]]) -> Tensor:
    """What the model itself writes."""
    return torch.stack(list(lm.model.generate(rows, STEPS, temperature=0)), 1)


@pytest.fixture(name="lm")
def _lm() -> RecurraForCausalLM:
    return _wrapped("mingru")


# ----------------------------------------------------------------------------------------------
# Generation.


@every
def test_greedy_of_a_padded_batch_is_that_of_each_row(name: str) -> None:
    lm = _wrapped(name)
    want = torch.cat([_greedy(lm, [row]) for row in PROMPTS])
    for use_cache in (True, False):
        got = lm.generate(**_padded(PROMPTS), **GREEDY, use_cache=use_cache)
        assert got[:, LONGEST:].equal(want)


@every
def test_wide_beams_find_the_likeliest(name: str) -> None:
    """Four tokens, three steps, sixteen beams: none is left out, and each step puts rows in another order."""
    lm, prompts = _wrapped(name, 4), [[1, 2, 3], [2]]
    got = lm.generate(**_padded(prompts), max_new_tokens=3, num_beams=16)
    ends = torch.tensor(list(itertools.product(range(4), repeat=3)))
    for row, prompt in zip(got, prompts, strict=True):
        whole = torch.cat([torch.tensor(prompt).expand(len(ends), -1), ends], 1)
        log_p = lm.model(whole)[0].log_softmax(-1)[:, -4:-1]
        assert row[-3:].equal(ends[log_p.gather(2, ends[..., None]).sum((1, 2)).argmax()])


@every
def test_draws_do_not_depend_on_the_cache(name: str) -> None:
    lm, draws = _wrapped(name), []
    how = {"do_sample": True, "num_return_sequences": 2, "top_k": 7, "repetition_penalty": 1.1}
    for use_cache in (True, False):
        torch.manual_seed(1)
        draws.append(lm.generate(**_padded(PROMPTS), max_new_tokens=STEPS, use_cache=use_cache, **how))
    assert draws[0].shape == (2 * len(PROMPTS), LONGEST + STEPS)
    assert draws[0].equal(draws[1])


@every
def test_what_generate_returns(name: str) -> None:
    """Logits and hidden states of each step are those of the whole text, and the cache goes on from there."""
    lm, batch = _wrapped(name), _padded(PROMPTS)
    show = {"output_logits": True, "output_scores": True, "output_hidden_states": True}
    out = lm.generate(**batch, **GREEDY, **show, return_dict_in_generate=True)
    mask = torch.cat([batch["attention_mask"], torch.ones(len(PROMPTS), STEPS)], 1)
    whole = lm(out.sequences, mask, output_hidden_states=True)
    # transformers takes logits on in fp32.
    close(torch.stack(out.logits, 1), whole.logits[:, LONGEST - 1 : -1].float())
    assert len(out.scores) == len(out.hidden_states) == STEPS
    for i, kept in enumerate(whole.hidden_states):
        close(torch.cat([step[i] for step in out.hidden_states], 1), kept[:, :-1])
    # The last token was written, and not yet read.
    assert out.past_key_values.get_seq_length() == LONGEST + STEPS - 1
    copies = copy.deepcopy(out.past_key_values), pickle.loads(pickle.dumps(out.past_key_values))
    want = lm.generate(out.sequences, attention_mask=mask, **GREEDY)
    for cache in (out.past_key_values, *copies):
        got = lm.generate(out.sequences, attention_mask=mask, past_key_values=cache, **GREEDY)
        assert got.equal(want)


def test_vectors_in_the_place_of_tokens(lm: RecurraForCausalLM) -> None:
    batch = _padded(PROMPTS)
    vectors = lm.get_input_embeddings()(batch["input_ids"])
    got = lm.generate(inputs_embeds=vectors, attention_mask=batch["attention_mask"], **GREEDY)
    assert got.equal(lm.generate(**batch, **GREEDY)[:, LONGEST:])


def test_long_prompts_in_chunks(lm: RecurraForCausalLM) -> None:
    chunks = {"prefill_chunk_size": 2, "past_key_values": RecurraCache()}
    assert lm.generate(**_padded(PROMPTS), **GREEDY, **chunks).equal(
        lm.generate(**_padded(PROMPTS), **GREEDY)
    )


def test_rows_end_by_themselves(lm: RecurraForCausalLM) -> None:
    want = _greedy(lm, PROMPTS).tolist()
    end = want[0][2]
    got = lm.generate(**_padded(PROMPTS), **GREEDY, eos_token_id=end, pad_token_id=0)[:, LONGEST:]
    for row, free in zip(got.tolist(), want, strict=True):
        at = free.index(end) + 1 if end in free else len(row)
        assert row[:at] == free[:at]
        assert not any(row[at:])


def test_no_assistant(lm: RecurraForCausalLM) -> None:
    with pytest.raises(ValueError, match="not supported with stateful models"):
        lm.generate(torch.tensor([[1]]), assistant_model=lm, max_new_tokens=2)


# ----------------------------------------------------------------------------------------------
# One call, and what it carries on.


@every
def test_masked_tokens_are_not_there(name: str) -> None:
    """In front, behind, in between, whole rows; in a first call and in one that goes on from it."""
    lm, time = _wrapped(name), 6
    first = [[0, 0, 1, 1, 1, 1], [1, 1, 1, 0, 0, 0], [1, 0, 1, 0, 0, 1], [0] * 6, [1] * 6]
    mask = torch.tensor([row + first[i] for row, i in zip(first, (2, 0, 1, 4, 3), strict=True)])
    # What stands under a mask may be anything at all.
    tokens = torch.randint(0, VOCABULARY, mask.shape).masked_fill(mask == 0, -100)
    cache = RecurraCache()
    calls = [lm(tokens[:, :time], mask[:, :time], cache), lm(tokens[:, time:], mask, cache)]
    got = torch.cat([call.logits for call in calls], 1)
    assert got.isfinite().all()
    for b, alive in enumerate(mask.bool()):
        want, state = lm.model(tokens[b : b + 1, alive])
        close(got[b, alive], want[0])
        same_state(recurra.state.select(cache.state, [b]), state)


@every
def test_steps_are_those_of_the_model(name: str) -> None:
    lm, state, cache = _wrapped(name), None, RecurraCache()
    with torch.no_grad():
        for token in torch.randint(0, VOCABULARY, (4, 3)):
            want, state = lm.model.step(token, state)
            close(lm(token[:, None], past_key_values=cache).logits[:, 0], want)
    same_state(cache.state, state)


@NATIVE
@torch.no_grad()
def test_steps_are_recorded(lm: RecurraForCausalLM) -> None:
    cache, token = RecurraCache(), torch.tensor([[1], [2], [3]])
    lm(**_padded(PROMPTS), past_key_values=cache)
    first = lm(token, past_key_values=cache).logits
    kept, step = first.clone(), cache._step
    assert isinstance(step, RecordedStepper)
    cache.reorder_cache(torch.tensor([2, 0, 0]))
    lm(token, past_key_values=cache)
    assert cache._step is step
    assert first.equal(kept)
    # Another model has other weights than those that were recorded.
    other = _wrapped("minlstm")
    want = other.model.step(token[:, 0], cache.state)[0]
    close(other(token, past_key_values=cache).logits[:, 0], want)


@every
@pytest.mark.parametrize("stepped", [False, True])
@torch.no_grad()
def test_rows_of_a_cache(name: str, stepped: bool) -> None:
    lm, tokens = _wrapped(name), torch.randint(0, VOCABULARY, (3, 4))

    def after(act: str, *how: Any) -> Tensor:
        cache = RecurraCache()
        getattr(cache, act)(*how)  # a fresh start has no rows
        lm(tokens[:, :3], past_key_values=cache)
        if stepped:
            lm(tokens[:, 3:], past_key_values=cache)
        getattr(cache, act)(*how)
        rows = len(leaves(cache.state)[0])
        return lm(torch.ones(rows, 1, dtype=torch.int64), past_key_values=cache).logits

    plain = after("get_seq_length")
    close(after("reorder_cache", torch.tensor([2, 0, 0])), plain[[2, 0, 0]])
    close(after("batch_select_indices", torch.tensor([1])), plain[[1]])
    close(after("batch_repeat_interleave", 2), plain[[0, 0, 1, 1, 2, 2]])


def test_a_cache_can_be_emptied_but_not_cropped(lm: RecurraForCausalLM) -> None:
    tokens = torch.tensor(PROMPTS[:1])
    cache = lm(tokens).past_key_values
    with pytest.raises(NotImplementedError, match="crop"):
        cache.crop(-1)
    assert not cache.is_croppable
    cache.reset()
    assert (cache.get_seq_length(), cache.state) == (0, None)
    assert lm(tokens, use_cache=False).past_key_values is None
    assert lm.train()(tokens).past_key_values is None


def test_which_logits(lm: RecurraForCausalLM) -> None:
    tokens = torch.tensor(PROMPTS[:1])
    whole = lm(tokens).logits
    close(lm(tokens, logits_to_keep=2).logits, whole[:, -2:])
    close(lm(tokens, logits_to_keep=torch.tensor([0, 3])).logits, whole[:, [0, 3]])
    close(lm(tokens, return_dict=False)[0], whole)


@every
def test_loss_and_gradients_are_ours(name: str) -> None:
    lm = _wrapped(name).train()
    tokens = torch.randint(0, VOCABULARY, (3, 7))
    labels = tokens.masked_fill(torch.rand(3, 7) < 0.3, -100)
    want, _ = lm.model.loss(tokens[:, :-1], labels[:, 1:])
    gradients = torch.autograd.grad(want, lm.model.parameters())
    for act in (lm.activation_checkpointing_enable, lm.activation_checkpointing_disable):
        act()
        assert lm.model.checkpointing is (act == lm.activation_checkpointing_enable)
        got = lm(tokens, labels=labels).loss
        # transformers computes losses in fp32.
        close(got, want.float())
        for x, y in zip(torch.autograd.grad(got, lm.parameters()), gradients, strict=True):
            close(x.float(), y.float())
    count = (labels[:, 1:] != -100).sum()
    close(lm(tokens, labels=labels, num_items_in_batch=2 * count).loss, want.float() / 2)


def test_loss_of_a_padded_batch_is_that_of_its_rows(lm: RecurraForCausalLM) -> None:
    tokens = torch.randint(0, VOCABULARY, (4, 6))
    mask = torch.tensor([[0, 0, 1, 1, 1, 1], [1, 1, 1, 0, 0, 0], [1, 0, 1, 0, 0, 1], [0] * 6])
    rows = [row[alive] for row, alive in zip(tokens, mask.bool(), strict=True)][:3]
    losses = [lm.model.loss(row[None, :-1], row[None, 1:])[0] * (len(row) - 1) for row in rows]
    want = sum(losses) / sum(len(row) - 1 for row in rows)
    close(lm(tokens, mask, labels=tokens).loss, want.float())


# ----------------------------------------------------------------------------------------------
# Folders, tables of tokens, errors.


@pytest.mark.parametrize(("name", "tied"), [*((name, False) for name in BLOCKS), ("mingru", True)])
def test_folder(name: str, tied: bool, tmp_path: Path) -> None:
    lm, tokens = _wrapped(name, tied=tied), torch.tensor(PROMPTS[:1])
    lm.save_pretrained(tmp_path)
    back = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert type(back) is RecurraForCausalLM
    assert not back.training
    assert back.model.config == lm.model.config
    sizes = back.config.vocab_size, back.config.hidden_size, back.config.num_hidden_layers
    assert sizes == (VOCABULARY, WIDTH, 2)
    close(back(tokens).logits, lm(tokens).logits)
    # To a folder of ours, and into a wrapper again.
    back.model.save_pretrained(tmp_path / "ours")
    close(wrap(tmp_path / "ours")(tokens).logits, lm(tokens).logits)


def test_a_lost_weight_is_not_made_up(lm: RecurraForCausalLM, tmp_path: Path) -> None:
    lm.save_pretrained(tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    del tensors["model.head.norm.weight"]
    save_file(tensors, tmp_path / "model.safetensors", {"format": "pt"})
    with pytest.raises(ValueError, match=r"model\.head\.norm\.weight is missing"):
        AutoModelForCausalLM.from_pretrained(tmp_path)


def test_nothing_is_copied_or_drawn() -> None:
    model = recurra.language_model("mingru", VOCABULARY, WIDTH, 1)
    before = [x.clone() for x in model.parameters()]
    lm = wrap(model)
    assert lm.model is model
    assert lm.training
    assert all(x.equal(y) for x, y in zip(lm.parameters(), before, strict=True))


@pytest.mark.parametrize("tied", [False, True])
def test_more_tokens_and_fewer(tied: bool, tmp_path: Path) -> None:
    lm, tokens = _wrapped("mingru", tied=tied), torch.tensor(PROMPTS[:1])
    old, table = lm(tokens).logits, lm.get_input_embeddings()
    assert lm.resize_token_embeddings(VOCABULARY + 2, pad_to_multiple_of=8) is table
    assert lm.config.vocab_size == lm.model.head.size == 16
    close(lm(tokens).logits[..., :VOCABULARY], old)
    close(table.weight[12], table.weight[:VOCABULARY].mean(0))
    lm.save_pretrained(tmp_path)
    assert AutoModelForCausalLM.from_pretrained(tmp_path)(tokens).logits.shape[-1] == 16
    lm.resize_token_embeddings(20, mean_resizing=False)
    assert lm(torch.tensor([[19]])).logits.shape[-1] == 20
    lm.requires_grad_(False).resize_token_embeddings(VOCABULARY)
    assert not any(p.requires_grad for p in lm.parameters())
    close(lm(tokens).logits, old)


@pytest.mark.parametrize("tied", [False, True])
def test_another_table(tied: bool) -> None:
    lm, table = _wrapped("mingru", tied=tied), nn.Embedding(VOCABULARY, WIDTH, dtype=torch.float64)
    lm.set_input_embeddings(table)
    assert lm.get_input_embeddings().weight is table.weight
    want = table.weight if tied else lm.model.head.weight
    x = torch.randn(1, WIDTH, dtype=torch.float64)
    close(lm.model.head(x), lm.model.head.norm(x) @ want.T)
    with pytest.raises(ValueError, match=r"value must have a weight \[11, 8\], got \[3, 8\]"):
        lm.set_input_embeddings(nn.Embedding(3, WIDTH))


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({}, "one of input_ids and inputs_embeds"),
        ({"input_ids": torch.ones(1, 2), "inputs_embeds": torch.ones(1, 2, 8)}, "one of input_ids and"),
        ({"input_ids": torch.ones(2)}, r"input_ids must be \[batch, time\], got \[2\]"),
        ({"input_ids": torch.ones(1, 2), "attention_mask": torch.ones(1, 1, 2, 2)}, r"got \[1, 1, 2, 2\]"),
        (
            {"input_ids": torch.ones(1, 2), "attention_mask": torch.ones(1, 1)},
            r"time\] = \[1, 2\], or",
        ),
        (
            {"input_ids": torch.ones(1, 2), "past_key_values": DynamicCache()},
            "got DynamicCache",
        ),
    ],
)
def test_errors_name_the_argument(lm: RecurraForCausalLM, given: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        lm(**given)


def test_numbers_are_no_tokens() -> None:
    with pytest.raises(ValueError, match="a model that reads tokens"):
        wrap(recurra.language_model("mingru", 1, WIDTH, 1, channels=2))
