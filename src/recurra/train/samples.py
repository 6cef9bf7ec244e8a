"""A sheet on which a person can judge what a model writes."""

from typing import Any

import numpy as np

from recurra.models.text import write
from recurra.tasks.text import Text
from recurra.tasks.writing import distance, repetition, valid_words, words

__all__ = ["sheet"]

PROMPT = 64
LEXICON = 1 << 22


def sheet(model: Any, data: Text, count: int = 4, length: int = 512, temperature: float = 0.8) -> str:
    """Held-out text beside what the model writes from the same beginnings, and what sets them apart."""
    length = min(length, (len(data.valid) - PROMPT) // (count + 1))
    if length < 1:
        raise ValueError(f"the held-out text has only {len(data.valid)} tokens, too few to compare with")
    starts = np.linspace(0, len(data.valid) - PROMPT - length, count + 1).astype(int)
    text = data.vocabulary.decode
    prompts = [data.valid[s : s + PROMPT].tolist() for s in starts[:count]]
    real = [text(data.valid[s + PROMPT : s + PROMPT + length].tolist()) for s in starts]
    written = write(model.generate(prompts, length, temperature=temperature, seed=0), data.vocabulary)
    known = set(words(text(data.train[:LEXICON].tolist())))
    rows = [
        _row("written", "".join(written), real[:count], known),
        _row("real", real[-1], real[:count], known),
    ]
    parts = [_part(text(p), r, w) for p, r, w in zip(prompts, real[:count], written, strict=True)]
    return "\n".join([HEAD, *rows, "", *parts])


HEAD = """# What the model writes, beside the real text

Words are known where the training text has them; repeated are runs of four words that came before; the
distance is the total variation of character trigrams from the real passages below (the row `real` is
another real passage).

| text | known words | repeated | distance |
|---|---|---|---|"""


def _row(name: str, text: str, real: list[str], known: set[str]) -> str:
    values = valid_words(text, known), repetition(text), distance(text, "".join(real))
    return f"| {name} | {' | '.join(f'{value:.3f}' for value in values)} |"


def _part(prompt: str, real: str, written: str) -> str:
    blocks = (("begins", prompt), ("real", real), ("written", written))
    return "\n".join(f"**{name}**\n\n{_quoted(text)}\n" for name, text in blocks) + "\n---\n"


def _quoted(text: str) -> str:
    """Indented, as Markdown shows text as it is."""
    return "\n".join(f"    {line}" for line in text.splitlines())
