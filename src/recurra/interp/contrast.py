"""The direction in which two kinds of text differ, at places of a model and in its states."""

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from recurra.interp.contents import contents
from recurra.interp.pairs import Pair
from recurra.interp.places import record, subject
from recurra.interp.subject import Place, Subject

__all__ = ["METHODS", "contrast"]

# Rows of one length that are read at a time.
_ROWS = 32


class _Difference:
    """mean(matching) - mean(other), of values [B, N] that come in turn."""

    def __init__(self) -> None:
        self._sums, self._counts = [torch.zeros(()), torch.zeros(())], [0, 0]

    def add(self, side: int, values: Tensor) -> None:
        self._sums[side] = self._sums[side].to(values.device) + values.double().sum(0)
        self._counts[side] += len(values)

    def vector(self) -> Tensor:
        other, matching = self._sums[0] / self._counts[0], self._sums[1] / self._counts[1]
        return (matching - other).float()


class _Discriminant:
    """pinv(S) (mean(matching) - mean(other)), S the covariance within both kinds: Fisher's direction.

    By the singular values of the values themselves, since N may exceed their number by far.
    """

    def __init__(self) -> None:
        self._values: list[list[Tensor]] = [[], []]

    def add(self, side: int, values: Tensor) -> None:
        self._values[side].append(values)

    def vector(self) -> Tensor:
        other, matching = (torch.cat(parts).double() for parts in self._values)
        apart = matching.mean(0) - other.mean(0)
        within = torch.cat([x - x.mean(0) for x in (other, matching)])
        _, size, rows = torch.linalg.svd(within, full_matrices=False)
        # Below that they are the rounding of fp32.
        kept = size > size.max() * max(within.shape) * torch.finfo(torch.float32).eps
        rows, variance = rows[kept], size[kept].square() / (len(within) - 2)
        direction: Tensor = rows.T @ (rows @ apart / variance)
        return direction.float()


METHODS: dict[str, Any] = {"difference": _Difference, "lda": _Discriminant}
_AT = ("last", "answer")


@torch.no_grad()
def _values(whole: Subject, places: Sequence[Place], tokens: Tensor, over: int) -> dict[Place, Tensor]:
    """[B, N] at places, of tokens [B, T]: of activations the mean of the last `over`, of states the end."""
    streams = [place for place in places if place.kind != "state"]
    with record(whole, streams) as seen:
        _, state = whole.read(tokens)
    values = {place: calls[0][:, -over:].float().mean(1) for place, calls in seen.items()}
    return values | {p: contents(whole, state[p.block]) for p in places if p.kind == "state"}


def contrast(
    model: Any,
    pairs: Sequence[Pair],
    places: Sequence[Place],
    method: str = "difference",
    at: str = "last",
    told: Callable[[int], None] = lambda texts: None,
) -> dict[Place, Tensor]:
    """A vector [N] a place: how what passes there differs between matching and other answers.

    method: `difference` of the means, or `lda`, which multiplies it by the pseudo-inverse of the covariance
    within both kinds; not normalised (contrastive activation addition, arXiv 2312.06681, as in 2404.05971).
    at: of activations the `last` token of prompt and answer, or the mean over the `answer`; of states always
    what is left at the end. told is called with the number of texts read. Raises ValueError for attention's.
    """
    whole = subject(model)
    _check(whole, pairs, places, method, at)
    kept, texts = {place: METHODS[method]() for place in places}, 0
    for side in (0, 1):
        for tokens, answer in _batches(pairs, side, whole.unembedding.device):
            for place, values in _values(whole, places, tokens, answer if at == "answer" else 1).items():
                kept[place].add(side, values)
            texts += len(tokens)
            told(texts)
    return {place: one.vector() for place, one in kept.items()}


def _check(whole: Subject, pairs: Sequence[Pair], places: Sequence[Place], method: str, at: str) -> None:
    """Raise ValueError that names the argument."""
    for name, given, known in (("method", method, METHODS), ("at", at, _AT)):
        if given not in known:
            raise ValueError(f"{name} must be one of {', '.join(known)}, got {given!r}")
    if len(pairs) < (least := 2 if method == "lda" else 1):
        raise ValueError(f"pairs must hold at least {least}, got {len(pairs)}")
    for place in places:
        whole.block(place)


def _batches(pairs: Sequence[Pair], side: int, device: torch.device) -> Iterator[tuple[Tensor, int]]:
    """Texts of one length [B, T], and the length of their answers: side 1 the matching ones, 0 the others."""
    groups = defaultdict(list)
    for pair in pairs:
        answer = pair.matching if side else pair.other
        if not answer:
            raise ValueError("pairs must have answers of at least one token")
        groups[len(pair.prompt), len(answer)].append([*pair.prompt, *answer])
    for (_, length), texts in groups.items():
        for part in torch.tensor(texts, device=device).split(_ROWS):
            yield part, length
