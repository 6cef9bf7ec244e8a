"""To the Hugging Face hub: its mixin carries a model, and nothing but what `save_pretrained` writes."""

from pathlib import Path
from typing import Any

from huggingface_hub import ModelHubMixin

from recurra.models.files import CONFIG, VOCABULARIES, WEIGHTS

__all__ = ["push"]


class _Carrier(ModelHubMixin):
    """The mixin around a model that is none: its own loading is not strict."""

    def __init__(self, model: Any) -> None:
        self.model = model

    def _save_pretrained(self, save_directory: Path) -> None:
        self.model.save_pretrained(save_directory)


def push(model: Any, repo_id: str, private: bool | None, token: str | None, branch: str | None) -> str:
    """Upload the model; the address of the commit."""
    # The mixin also writes a README of its own, which must not take the place of the owner's.
    ours = [CONFIG, WEIGHTS, *VOCABULARIES]
    return _Carrier(model).push_to_hub(
        repo_id,
        commit_message="A model of recurra",
        private=private,
        token=token,
        branch=branch,
        allow_patterns=ours,
    )
