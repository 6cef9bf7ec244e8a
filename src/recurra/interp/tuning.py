"""Training a lens, judging it by depth, and the predictions of a model from block to block."""

import math
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from recurra.interp.lens import Lens

__all__ = ["PAPER", "QUICK", "Depth", "Recipe", "Trajectory", "by_depth", "fit", "trajectory"]

# Tokens, and logits of a block, that are there at a time.
_TOKENS, _LOGITS = 2**13, 2**26


class Recipe(NamedTuple):
    """How a lens is trained: `steps` of `tokens` each, in sequences of `context`.

    optimizer: sgd (Nesterov's, momentum 0.9) or adam; the learning rate falls to 0 linearly.
    """

    optimizer: str
    lr: float
    weight_decay: float
    steps: int
    tokens: int
    context: int
    clip: float = 1.0

    def made(self, parameters: Any) -> torch.optim.Optimizer:
        """The optimizer."""
        if self.optimizer == "adam":
            return torch.optim.AdamW(parameters, self.lr, weight_decay=self.weight_decay)
        return torch.optim.SGD(parameters, self.lr, 0.9, weight_decay=self.weight_decay, nesterov=True)

    @property
    def rows(self) -> int:
        """Sequences a step."""
        return max(1, self.tokens // self.context)


# The defaults of the authors' package tuned-lens, which arXiv 2404.05971 uses too; there a learning rate of 1
# is multiplied by 1 - 0.9. Departs from them in fp32, where they compute in bf16.
PAPER = Recipe("sgd", 0.1, 1e-3, 250, 2**18, 2048)
# For models of a few million parameters: two minutes on two cores where that takes hours. Ours.
QUICK = Recipe("adam", 1e-3, 0.0, 250, 2**13, 256)


def _divergence(final: Tensor, logits: Tensor) -> Tensor:
    """KL(final || lens) in nats, [...], of log probabilities and logits [..., V]."""
    return (final.exp() * (final - logits.log_softmax(-1))).sum(-1)


def fit(
    lens: Lens,
    batch: Callable[[int], Tensor],
    recipe: Recipe = QUICK,
    told: Callable[[int, float], None] = lambda step, nats: None,
) -> None:
    """Train a lens to the model's own predictions: mean KL(final || lens) of all its blocks, by `recipe`.

    batch(step): tokens [recipe.rows, recipe.context]; told(steps, nats) is called after each step with the
    mean KL of the blocks before it. The model stays as it is.
    """
    parameters = list(lens.parameters())
    if not parameters:
        raise ValueError(f"{type(lens).__name__} has nothing to train")
    rows = max(1, min(_TOKENS, _LOGITS // len(lens.subject.unembedding)) // recipe.context)
    lens.prepare(batch(0)[:rows])
    optimizer = recipe.made(parameters)
    for step in range(recipe.steps):
        for group in optimizer.param_groups:
            group["lr"] = recipe.lr * (1 - step / recipe.steps)
        optimizer.zero_grad()
        nats, tokens = 0.0, batch(step)
        for part in tokens.split(rows):
            nats += _learn(lens, parameters, part, len(part) / len(tokens))
        torch.nn.utils.clip_grad_norm_(parameters, recipe.clip)
        optimizer.step()
        told(step + 1, nats / len(lens.blocks))


def _learn(lens: Lens, parameters: list[Any], tokens: Tensor, share: float) -> float:
    """Add the gradients of these rows, which are that share of a step; its nats, summed over the blocks."""
    seen, total = lens.seen(tokens), 0.0
    final = seen.logits.log_softmax(-1)
    for block, value in zip(lens.blocks, seen.values, strict=True):
        with torch.enable_grad():
            loss = share * _divergence(final, lens(value, block)).mean()
            # Of the lens alone: those of the head are nobody's.
            loss.backward(inputs=parameters)
        total += loss.item()
    return total


class Depth(NamedTuple):
    """A block's prediction of the next token in bits per byte, and its KL(final || lens) in the same."""

    block: int
    bits_per_byte: float
    kl: float


@torch.no_grad()
def by_depth(lens: Lens, batches: Iterable[Tensor], bytes_per_token: float) -> list[Depth]:
    """What each block of the lens predicts of sequences [B, T + 1], and last the model's own prediction.

    At the positions that the lens reads; bytes_per_token: of that text.
    """
    bits, count = 1 / math.log(2) / bytes_per_token, 0
    sums = torch.zeros(len(lens.blocks) + 1, 2, dtype=torch.float64)
    for tokens in batches:
        seen = lens.seen(tokens[:, :-1])
        final, goals = seen.logits.log_softmax(-1), tokens[:, seen.positions.to(tokens.device) + 1]
        lenses = (lens(value, block) for block, value in zip(lens.blocks, seen.values, strict=True))
        for row, logits in enumerate((*lenses, seen.logits)):
            nats = cross_entropy(logits.flatten(0, 1), goals.flatten(), reduction="sum")
            sums[row] += torch.stack([nats, _divergence(final, logits).sum()]).cpu()
        count += goals.numel()
    if not count:
        raise ValueError("batches must hold at least one sequence")
    blocks = (*lens.blocks, len(lens.subject.blocks) - 1)
    rows = (sums * bits / count).tolist()
    return [Depth(block, *row) for block, row in zip(blocks, rows, strict=True)]


class Trajectory(NamedTuple):
    """Predictions from block to block, the model's own last: [blocks + 1, B, K] each, K positions.

    top, probability [blocks + 1, B, K, k]: the likeliest next tokens; entropy, and kl to the model's own, in
    nats; surprise: nats of the token that follows, NaN behind the last. positions [K].
    """

    top: Tensor
    probability: Tensor
    entropy: Tensor
    kl: Tensor
    surprise: Tensor
    positions: Tensor


@torch.no_grad()
def trajectory(lens: Lens, tokens: Tensor, top: int = 5) -> Trajectory:
    """What each block of the lens predicts at its positions of tokens [B, T]."""
    seen, time = lens.seen(tokens), tokens.shape[1]
    lenses = (lens(value, block) for block, value in zip(lens.blocks, seen.values, strict=True))
    log_p = torch.stack([logits.log_softmax(-1) for logits in (*lenses, seen.logits)])
    best = log_p.topk(min(top, log_p.shape[-1]))
    after = (seen.positions + 1).to(tokens.device)
    goals = tokens[:, after.clamp(max=time - 1)].expand(log_p.shape[:-1])
    surprise = -log_p.gather(-1, goals[..., None])[..., 0]
    return Trajectory(
        best.indices,
        best.values.exp(),
        -(log_p.exp() * log_p).sum(-1),
        (log_p[-1].exp() * (log_p[-1] - log_p)).sum(-1),
        surprise.masked_fill(after == time, math.nan),
        seen.positions,
    )
