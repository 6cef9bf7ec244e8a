"""Vocabularies as tokenizers of transformers: the same text to the same tokens, and back."""

from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerFast

from recurra.interop.tokenizer import tokenizer_json
from recurra.models.vocabulary import Vocabulary, visible

__all__ = ["fast_tokenizer"]

# A byte that no text holds.
_SPARE = b"\xff"


def fast_tokenizer(vocabulary: Vocabulary) -> PreTrainedTokenizerFast:
    """The tokenizer that gives the tokens of `vocabulary.encode` and the text of `vocabulary.decode`.

    It pads in front. The token of byte 255, which no text holds, is the padding of bytes and of pairs that
    bring no special tokens of their own; otherwise `pad_token` is None: characters have none to spare.
    Raises ValueError for a vocabulary of another kind.
    """
    tokenizer = Tokenizer.from_str(tokenizer_json(vocabulary).decode())
    spare = _SPARE in vocabulary.pieces and not tokenizer.get_added_tokens_decoder()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        padding_side="left",
        clean_up_tokenization_spaces=False,
        pad_token=visible(_SPARE) if spare else None,
        # Without it a text that holds the character by which that byte is written would hold padding.
        split_special_tokens=spare,
    )
