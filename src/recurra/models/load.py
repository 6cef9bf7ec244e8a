"""A saved model of either kind."""

import os

from recurra.models import files
from recurra.models.encoder_decoder import EncoderDecoder
from recurra.models.sequence import SequenceModel

__all__ = ["load"]


def load(name: str | os.PathLike[str]) -> SequenceModel | EncoderDecoder:
    """The model, in eval mode, of a folder or else of a repository on the Hugging Face hub.

    Raises ValueError that names the file where one is damaged, foreign or does not fit the others.
    """
    folder = files.locate(name)
    config, contents = files.read(folder)
    kind: type[SequenceModel] | type[EncoderDecoder] = (
        EncoderDecoder if "encoder" in config else SequenceModel
    )
    return kind.restored(folder, config, contents)
