"""Tokenizers of transformers give the tokens and the text of the vocabularies they are made of."""

import random
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer, PreTrainedTokenizerFast, pipeline

import recurra
from recurra.interop.causal_lm import wrap
from recurra.interop.fast_tokenizer import fast_tokenizer
from recurra.models import BPEVocabulary, ByteVocabulary, CharVocabulary, Vocabulary, write

# Characters of one to four bytes, joined ones, those that tokenizers write bytes with, a token's usual name.
CHARACTERS = "aB .,'\n\r\t\0éÿĠ€𝄞👩‍👧e\u0301<pad>"
TEXTS = st.text(st.sampled_from(CHARACTERS), max_size=12)


def _vocabulary(kind: str, folder: Path) -> Vocabulary:
    if kind == "byte":
        return ByteVocabulary()
    if kind == "char":
        return CharVocabulary.of(CHARACTERS)
    (folder / "text").write_text("a B, a B. a pad <pad> a\n" * 5, encoding="utf-8", newline="")
    return BPEVocabulary.train([folder / "text"], 270)


@pytest.fixture(name="vocabulary", params=["byte", "char", "bpe"], scope="module")
def _fixture(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Vocabulary:
    return _vocabulary(request.param, tmp_path_factory.mktemp("vocabulary"))


@pytest.fixture(name="tokenizer", params=["made", "loaded"], scope="module")
def _tokenizer(
    vocabulary: Vocabulary, request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> PreTrainedTokenizerFast:
    made = fast_tokenizer(vocabulary)
    if request.param == "made":
        return made
    folder = tmp_path_factory.mktemp("tokenizer")
    made.save_pretrained(folder)
    return AutoTokenizer.from_pretrained(folder)


@settings(max_examples=100)
@given(text=TEXTS)
def test_text(vocabulary: Vocabulary, tokenizer: PreTrainedTokenizerFast, text: str) -> None:
    tokens = tokenizer(text).input_ids
    assert tokens == vocabulary.encode(text)
    for skip in (False, True):
        assert tokenizer.decode(tokens, skip_special_tokens=skip) == text
    assert len(tokenizer) == vocabulary.size


@settings(max_examples=100)
@given(draw=st.randoms(use_true_random=False))
def test_any_tokens(vocabulary: Vocabulary, tokenizer: PreTrainedTokenizerFast, draw: random.Random) -> None:
    """Bytes that are no text too."""
    tokens = [draw.randrange(vocabulary.size) for _ in range(8)]
    assert tokenizer.decode(tokens) == vocabulary.decode(tokens)


def test_padding(vocabulary: Vocabulary, tokenizer: PreTrainedTokenizerFast) -> None:
    if isinstance(vocabulary, CharVocabulary):
        assert tokenizer.pad_token is None
        return
    assert vocabulary.pieces[tokenizer.pad_token_id] == b"\xff"
    batch = tokenizer(["a", "ÿÿ"], padding=True)
    short, long = vocabulary.encode("a"), vocabulary.encode("ÿÿ")
    missing = len(long) - len(short)
    assert batch.input_ids == [[tokenizer.pad_token_id] * missing + short, long]
    assert batch.attention_mask == [[0] * missing + [1] * len(short), [1] * len(long)]


def test_padding_can_be_added() -> None:
    vocabulary = CharVocabulary("ab")
    lm, tokenizer = wrap(recurra.language_model("mingru", 2, 8, 1).eval()), fast_tokenizer(vocabulary)
    tokenizer.add_special_tokens({"pad_token": "<pad>"})
    lm.resize_token_embeddings(len(tokenizer))
    batch = tokenizer(["a", "abba"], padding=True, return_tensors="pt")
    assert batch.input_ids.tolist() == [[2, 2, 2, 0], [0, 1, 1, 0]]
    alone = lm(tokenizer("a", return_tensors="pt").input_ids).logits[0, -1]
    torch.testing.assert_close(lm(**batch).logits[0, -1], alone)


def test_unknown_characters() -> None:
    with pytest.raises(Exception, match="UNK"):
        fast_tokenizer(CharVocabulary("ab"))("abc")


def test_special_tokens_of_its_own(tmp_path: Path) -> None:
    vocabulary = _vocabulary("bpe", tmp_path)
    vocabulary._tokenizer.add_special_tokens(["<end>"])
    vocabulary = BPEVocabulary(vocabulary._tokenizer)
    tokenizer = fast_tokenizer(vocabulary)
    assert tokenizer("a<end>").input_ids == vocabulary.encode("a<end>")
    assert tokenizer.pad_token is None


def test_no_vocabulary() -> None:
    with pytest.raises(ValueError, match="str can't be written"):
        fast_tokenizer("byte")


def test_pipeline(vocabulary: Vocabulary, tmp_path: Path) -> None:
    """From a folder, by name alone; several texts at once go on as each of them does."""
    model, texts = recurra.language_model("mingru", vocabulary.size, 16, 1).eval(), ["a B", "a", "B, a"]
    wrap(model).save_pretrained(tmp_path)
    fast_tokenizer(vocabulary).save_pretrained(tmp_path)
    writer = pipeline("text-generation", str(tmp_path))
    many = {} if isinstance(vocabulary, CharVocabulary) else {"batch_size": 3}
    for text, [got] in zip(texts, writer(texts, do_sample=False, max_new_tokens=6, **many), strict=True):
        [want] = write(model.generate(vocabulary.encode(text), 6, temperature=0), vocabulary)
        assert got["generated_text"] == text + want
