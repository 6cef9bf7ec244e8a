"""Lenses: what a model would predict if it ended at some block, or knew no more than the state of one.

The logit lens reads a block's output by the model's own head; the tuned lens (arXiv 2303.08112) translates
it first, by an affine map for each block. "Does Transformer Interpretability Transfer to RNNs?" (arXiv
2404.05971) uses both on recurrent models. The lens on the state is ours.
"""

import hashlib
import json
import os
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from recurra.interp.places import record, states_at, subject
from recurra.interp.states import features, sketched
from recurra.interp.subject import Place, Subject
from recurra.models.files import write_alone

__all__ = [
    "LENSES",
    "Lens",
    "LogitLens",
    "Seen",
    "StateLens",
    "TunedLens",
    "load_lens",
    "save_lens",
    "unembedding_hash",
]

_KEY = "recurra_lens"


class Seen(NamedTuple):
    """What a lens reads of tokens [B, T] at K of their positions.

    values [B, K, N] for each of its blocks; logits [B, K, V], the model's own; positions [K].
    """

    values: list[Tensor]
    logits: Tensor
    positions: Tensor


class Lens(nn.Module, ABC):
    """logits [..., V] = head(translate(value [..., N], block)): the model's own final norm and unembedding.

    blocks: those that it reads. The model is no part of the lens's parameters. Raises ValueError where the
    model has too few blocks.
    """

    blocks: Sequence[int]

    def __init__(self, model: Any) -> None:
        super().__init__()
        # In a tuple, so that it is not registered.
        self._subject: tuple[Subject] = (subject(model),)

    @property
    def subject(self) -> Subject:
        """The model that it looks into."""
        return self._subject[0]

    @abstractmethod
    def seen(self, tokens: Tensor) -> Seen:
        """What it reads of tokens [B, T], without gradients."""

    @abstractmethod
    def translate(self, value: Tensor, block: int) -> Tensor:
        """A residual stream in front of the head, [..., width]."""

    def prepare(self, tokens: Tensor) -> None:
        """What training begins with, of some text [B, T]."""

    def forward(self, value: Tensor, block: int) -> Tensor:
        if block not in self.blocks:
            raise ValueError(f"block must be one of {list(self.blocks)}, got {block}")
        x = self.translate(value, block)
        return self.subject.head(x.to(self.subject.unembedding.dtype)).float()


class LogitLens(Lens):
    """logits = head(h_l) of the output h_l of each block but the last, which predicts as the model does."""

    def __init__(self, model: Any) -> None:
        super().__init__(model)
        self.blocks = range(len(self.subject.blocks) - 1)
        if not self.blocks:
            raise ValueError("model must have at least two blocks: a lens stands in front of the last")

    @torch.no_grad()
    def seen(self, tokens: Tensor) -> Seen:
        places = [Place("block", block) for block in self.blocks]
        with record(self.subject, places) as values:
            logits, _ = self.subject.read(tokens)
        positions = torch.arange(tokens.shape[1])
        return Seen([values[place][0].float() for place in places], logits.float(), positions)

    def translate(self, value: Tensor, block: int) -> Tensor:
        return value


class TunedLens(LogitLens):
    """logits = head(h + A_l h + b_l), where A_l and b_l begin at zero (arXiv 2303.08112, section 3)."""

    def __init__(self, model: Any) -> None:
        super().__init__(model)
        width, device = self.subject.unembedding.shape[1], self.subject.unembedding.device
        self.translators = nn.ModuleList(_zero(nn.Linear(width, width, device=device)) for _ in self.blocks)

    def translate(self, value: Tensor, block: int) -> Tensor:
        moved: Tensor = self.translators[block](value)
        return value + moved


class StateLens(Lens):
    """logits = head(A_l s + b_l) of the state of each block, after each `every`-th token.

    s is the state as a `vector`, less its mean and over its deviation in the text that training begins with.
    A large state, such as the matrices of an mLSTM, is first `sketched`, so that the lens stays affine in the
    state and no larger than LIMIT x width a block. Raises ValueError for blocks of attention, whose state has
    no fixed size.
    """

    def __init__(self, model: Any, every: int = 16) -> None:
        super().__init__(model)
        if every < 1:
            raise ValueError(f"every must be at least 1, got {every}")
        self.every, self.blocks = every, range(len(self.subject.blocks))
        width, device = self.subject.unembedding.shape[1], self.subject.unembedding.device
        sizes = [v.shape[-1] for v in self._vectors(torch.zeros(1, 1, dtype=torch.int64, device=device), [0])]
        self.translators = nn.ModuleList(_zero(nn.Linear(n, width, device=device)) for n in sizes)
        for name, value in (("mean", torch.zeros), ("scale", torch.ones)):
            for block, n in enumerate(sizes):
                self.register_buffer(f"{name}_{block}", value(n, device=device))

    @torch.no_grad()
    def _vectors(self, tokens: Tensor, positions: Sequence[int]) -> list[Tensor]:
        """[B, K, N] for each block."""
        read = [features(self.subject, state) for state in states_at(self.subject, tokens, positions)]
        return [sketched(torch.stack(block, 1).float()) for block in zip(*read, strict=True)]

    @torch.no_grad()
    def seen(self, tokens: Tensor) -> Seen:
        positions = list(range(self.every - 1, tokens.shape[1], self.every))
        if not positions:
            raise ValueError(f"tokens must be at least every = {self.every} long, got {list(tokens.shape)}")
        logits, _ = self.subject.read(tokens)
        return Seen(self._vectors(tokens, positions), logits[:, positions].float(), torch.tensor(positions))

    @torch.no_grad()
    def prepare(self, tokens: Tensor) -> None:
        """Mean and deviation of states; the first guess of the head's input is its mean."""
        last = Place("block", len(self.subject.blocks) - 1)
        with record(self.subject, [last]) as stream:
            self.subject.read(tokens)
        middle = stream[last][0].float().mean((0, 1))
        for block, value in enumerate(self.seen(tokens).values):
            rows = value.flatten(0, 1)
            deviation = rows.std(0, correction=0)
            self.get_buffer(f"mean_{block}").copy_(rows.mean(0))
            # What hardly moves is not to be blown up.
            self.get_buffer(f"scale_{block}").copy_(
                deviation.clamp(min=0.01 * float(deviation.mean()) + 1e-6)
            )
            bias: Any = self.translators[block].bias
            bias.copy_(middle)

    def translate(self, value: Tensor, block: int) -> Tensor:
        mean, scale = self.get_buffer(f"mean_{block}"), self.get_buffer(f"scale_{block}")
        x: Tensor = self.translators[block]((value - mean) / scale)
        return x


def _zero(linear: nn.Linear) -> nn.Linear:
    nn.init.zeros_(linear.weight)
    nn.init.zeros_(linear.bias)
    return linear


# ----------------------------------------------------------------------------------------------
# Files. The hash is of the head's matrix in fp32: with another one a lens says nothing.

LENSES: dict[str, type[Lens]] = {kind.__name__: kind for kind in (TunedLens, StateLens)}


def unembedding_hash(model: Subject) -> str:
    """SHA-256 of the head's matrix, by which a file knows its model."""
    weight = model.unembedding.detach().float().cpu().contiguous()
    return hashlib.sha256(weight.numpy().tobytes()).hexdigest()


def save_lens(lens: Lens, path: str | os.PathLike[str]) -> None:
    """Write a lens to one safetensors file, with the hash of the model's unembedding: whole or not at all."""
    about = {"kind": type(lens).__name__, "unembedding": unembedding_hash(lens.subject)}
    if isinstance(lens, StateLens):
        about["every"] = str(lens.every)
    tensors = {name: x.detach().cpu().contiguous() for name, x in lens.state_dict().items()}
    write_alone(Path(path), save(tensors, metadata={_KEY: json.dumps(about)}))


def load_lens(path: str | os.PathLike[str], model: Any) -> Lens:
    """The lens that `save_lens` wrote, onto the model it was trained for.

    Raises ValueError, naming the file, where it holds no lens, or where the model has another unembedding.
    """
    try:
        with safe_open(path, framework="pt") as f:
            about = json.loads((f.metadata() or {})[_KEY])
            tensors = {name: f.get_tensor(name) for name in f.keys()}  # noqa: SIM118
        kind, given = LENSES[about.pop("kind")], about.pop("unembedding")
        options = {name: int(value) for name, value in about.items()}
    except (SafetensorError, KeyError, RuntimeError, TypeError, ValueError) as e:
        raise ValueError(f"{os.fspath(path)} is not a lens of recurra: {e!r}") from e
    if given != unembedding_hash(subject(model)):
        raise ValueError(f"{os.fspath(path)} is the lens of another model: its unembedding is not this one's")
    lens = kind(model, **options)
    try:
        lens.load_state_dict(tensors)
    except RuntimeError as e:
        raise ValueError(f"{os.fspath(path)} does not fit the model: {e}") from e
    return lens
