"""A saved model of any kind."""

import os
from typing import Any

from recurra.models import files
from recurra.models.classic import CLASSIC, ClassicEncoderDecoder
from recurra.models.encoder_decoder import EncoderDecoder
from recurra.models.pairs import SequenceToSequence
from recurra.models.sequence import SequenceModel

__all__ = ["load"]


def load(name: str | os.PathLike[str]) -> SequenceModel | SequenceToSequence:
    """The model, in eval mode, of a folder or else of a repository on the Hugging Face hub.

    Raises ValueError that names the file where one is damaged, foreign or does not fit the others.
    """
    folder = files.locate(name)
    config, contents = files.read(folder)
    return _kind(config).restored(folder, config, contents)


def _kind(config: dict[str, Any]) -> type[SequenceModel] | type[SequenceToSequence]:
    if config.get("model") == CLASSIC:
        return ClassicEncoderDecoder
    return EncoderDecoder if "encoder" in config else SequenceModel
