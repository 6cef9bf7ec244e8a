"""A sheet on which a person can judge what a model writes."""

from typing import Any

import numpy as np

from recurra.models.text import write
from recurra.tasks.text import Text
from recurra.tasks.writing import distance, repetition, valid_words, words

__all__ = ["sheet"]

PROMPT, SHOWN = 64, 4
# Tokens of the training text that written text is held against.
SEEN = 1 << 22


def sheet(model: Any, data: Text, count: int = 32, length: int = 512, temperature: float = 0.8) -> str:
    """Held-out text beside what the model writes from the same beginnings, and what sets them apart."""
    length = min(length, (len(data.valid) - PROMPT) // (2 * count))
    if length < 1:
        raise ValueError(f"the held-out text has only {len(data.valid)} tokens, too few to compare with")
    text = data.vocabulary.decode
    starts = np.linspace(0, len(data.valid) - PROMPT - length, 2 * count).astype(int)
    prompts = [data.valid[s : s + PROMPT].tolist() for s in starts[::2]]
    passages = [text(data.valid[s + PROMPT : s + PROMPT + length].tolist()) for s in starts]
    real, other = passages[::2], passages[1::2]
    written = write(model.generate(prompts, length, temperature=temperature, seed=0), data.vocabulary)
    seen = text(data.train[:SEEN].tolist())
    rows = [_row("written", "".join(written), seen), _row("real", "".join(other), seen)]
    parts = [_part(text(p), r, w) for p, r, w in zip(prompts, real, written, strict=True)][:SHOWN]
    return "\n".join([HEAD, *rows, "", *parts])


HEAD = """# What the model writes, beside the real text

Words are known where the training text has them; repeated are runs of four words that came before; the
distance is the total variation of pairs of characters from the training text. The row `real` is as much
held-out text.

| text | known words | repeated | distance |
|---|---|---|---|"""


def _row(name: str, text: str, seen: str) -> str:
    values = valid_words(text, set(words(seen))), repetition(text), distance(text, seen, n=2)
    return f"| {name} | {' | '.join(f'{value:.3f}' for value in values)} |"


def _part(prompt: str, real: str, written: str) -> str:
    blocks = (("begins", prompt), ("real", real), ("written", written))
    return "\n".join(f"**{name}**\n\n{_quoted(text)}\n" for name, text in blocks) + "\n---\n"


def _quoted(text: str) -> str:
    """Indented, as Markdown shows text as it is."""
    return "\n".join(f"    {line}" for line in text.splitlines())
