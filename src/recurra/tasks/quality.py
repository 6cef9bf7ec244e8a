"""What translations are worth: BLEU and chrF, and beyond them what is repeated, copied and dropped.

>>> edits("K AE1 T".split(), "K AA1 T S".split())
2
>>> found = quality(["Die alte Katze"], ["the old cat sleeps"], ["the Katze and the Katze sleeps"])
>>> [round(found[name][0], 2) for name in ("error_rate", "length_ratio", "repeated", "copied", "dropped")]
[1.0, 1.5, 0.2, 0.5, 0.0]
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from statistics import fmean

import numpy as np

from recurra.extras import need
from recurra.tasks.writing import repetition, words

__all__ = ["Lines", "Measures", "by_quarter", "edits", "measured", "quality", "side_by_side"]

Lines = Sequence[str]
# Each value with what it is, or the signature of who counted it.
Measures = dict[str, tuple[float, str]]

# Letters of a content word, at least.
CONTENT = 4


def measured(written: Lines, wanted: Lines) -> Measures:
    """BLEU and chrF of plain sentences, with their signatures. Raises RuntimeError without sacrebleu."""
    house = need("sacrebleu.metrics", "translation")
    found = {}
    for name, metric in (("bleu", house.BLEU()), ("chrf", house.CHRF())):
        value = metric.corpus_score(list(written), [list(wanted)]).score
        found[name] = (float(value), str(metric.get_signature()))
    return found


def quality(sources: Lines, wanted: Lines, written: Lines) -> Measures:
    """Measures beyond BLEU, line by line; content words are those of four letters or more, in any case."""
    pairs = [(a.split(), b.split()) for a, b in zip(wanted, written, strict=True)]
    asked, made = (sum(map(len, side)) for side in zip(*pairs, strict=True))
    own, usual = (fmean(repetition(line.lower(), 2) for line in lines) for lines in (written, wanted))
    content = [[_content(line) for line in lines] for lines in (sources, wanted, written)]
    alien = (w in s and w not in ref for s, ref, out in zip(*content, strict=True) for w in out)
    missing = (w not in out for _, ref, out in zip(*content, strict=True) for w in ref)
    return {
        "exact": (_share(a == b for a, b in pairs), "of the sentences, word for word as the reference"),
        "error_rate": (sum(edits(*p) for p in pairs) / asked, "words to edit for each of the references"),
        "length_ratio": (made / asked, "words for each of the references"),
        "repeated": (own, f"of the pairs of words came before in the sentence; references: {usual:.4f}"),
        "copied": (_share(alien), "of the content words are of the source and not of the reference"),
        "dropped": (_share(missing), "of the content words of the references are missing"),
    }


def by_quarter(
    name: str, values: Sequence[float], measure: Callable[[Sequence[int]], float]
) -> dict[str, float]:
    """A measure of four parts of the lines, by value: as much alike in size as equal values let them be.

    measure takes the numbers of a part's lines; the names tell its range: `bleu@length 9-12`.
    """
    part = np.searchsorted(np.quantile(values, (0.25, 0.5, 0.75)), values)
    found = {}
    for number in np.unique(part):
        lines = np.flatnonzero(part == number).tolist()
        inside = [values[i] for i in lines]
        found[f"{name} {min(inside):.3g}-{max(inside):.3g}"] = measure(lines)
    return found


def edits(one: Sequence[str], other: Sequence[str]) -> int:
    """How many words to insert, drop or change at least until one is the other."""
    row = list(range(len(other) + 1))
    for i, x in enumerate(one, 1):
        corner, row[0] = row[0], i
        for j, y in enumerate(other, 1):
            corner, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, corner + (x != y))
    return row[-1]


def side_by_side(sources: Lines, wanted: Lines, written: Mapping[str, Lines]) -> str:
    """A sheet in Markdown for a person to judge: each source, its reference, and what each model wrote."""
    texts: dict[str, Lines] = {"source": sources, "reference": wanted, **written}
    wide, lines = max(map(len, texts)), ["# Sentences side by side", ""]
    for number in range(len(sources)):
        lines += [f"**{number + 1}**", ""]
        lines += [f"    {name:{wide}}  {column[number]}" for name, column in texts.items()] + [""]
    return "\n".join(lines)


def _content(line: str) -> set[str]:
    return {word for word in words(line.lower()) if len(word) >= CONTENT}


def _share(found: Iterable[bool]) -> float:
    counted = list(found)
    return sum(counted) / max(len(counted), 1)
