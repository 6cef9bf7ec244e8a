"""Models: a list of blocks between an embedding and a head; vocabularies; texts."""

from recurra.models.classic import ClassicEncoderDecoder, classic
from recurra.models.cross_entropy import linear_cross_entropy
from recurra.models.encoder_decoder import EncoderDecoder, encoder_decoder
from recurra.models.head import LanguageHead
from recurra.models.load import load
from recurra.models.pairs import Pair, SequenceToSequence
from recurra.models.quantize import quantize
from recurra.models.sequence import SequenceModel, language_model
from recurra.models.text import pieces, write
from recurra.models.vocabulary import BPEVocabulary, ByteVocabulary, CharVocabulary, Vocabulary

__all__ = [
    "BPEVocabulary",
    "ByteVocabulary",
    "CharVocabulary",
    "ClassicEncoderDecoder",
    "EncoderDecoder",
    "LanguageHead",
    "Pair",
    "SequenceModel",
    "SequenceToSequence",
    "Vocabulary",
    "classic",
    "encoder_decoder",
    "language_model",
    "linear_cross_entropy",
    "load",
    "pieces",
    "quantize",
    "write",
]
