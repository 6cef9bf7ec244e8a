"""From a stream of tokens to text: whole characters, and an end where a stop text appears."""

import codecs
from collections.abc import Callable, Iterable, Iterator, Sequence

from torch import Tensor

from recurra.models.vocabulary import Vocabulary

__all__ = ["pieces", "write"]


class _Row:
    """The text of one row: bytes go in, text comes out once it can't be the beginning of a stop text."""

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops, self._held, self.ended = stops, "", False
        self._decoder = codecs.getincrementaldecoder("utf8")("replace")

    def push(self, data: bytes, final: bool = False) -> str:
        if self.ended:
            return ""
        text = self._held + self._decoder.decode(data, final)
        ends = [at for stop in self._stops if (at := text.find(stop)) >= 0]
        self.ended = final or bool(ends)
        at = min(ends) if ends else len(text) - (0 if final else self._open(text))
        self._held = text[at:]
        return text[:at]

    def _open(self, text: str) -> int:
        """Length of the longest end of the text that is the beginning of a stop text."""
        longest = max((len(stop) for stop in self._stops), default=0)
        tails = (text[-n:] for n in range(min(len(text), longest), 0, -1))
        return next((len(tail) for tail in tails if any(stop.startswith(tail) for stop in self._stops)), 0)


def pieces(
    stream: Iterable[Tensor], vocabulary: Vocabulary, stop: str | Sequence[str] = ()
) -> Iterator[list[str]]:
    """The text that each step adds to each row, of a stream of tokens [B] as `generate` gives.

    A row ends before the first stop text in it, wherever tokens begin and end; the stream is left as
    soon as all rows have. Text that may turn out to be a stop text, and bytes of a character that is
    not whole, wait for the next step. Raises ValueError for an empty stop text.
    """
    stops = [stop] if isinstance(stop, str) else list(stop)
    if "" in stops:
        raise ValueError("stop must not hold an empty text")
    rows: list[_Row] = []
    for tokens in stream:
        rows = rows or [_Row(stops) for _ in range(len(tokens))]
        yield [row.push(vocabulary.piece(token)) for row, token in zip(rows, tokens.tolist(), strict=True)]
        if all(row.ended for row in rows):
            return
    if rows:
        yield [row.push(b"", final=True) for row in rows]


def write(
    stream: Iterable[Tensor],
    vocabulary: Vocabulary,
    stop: str | Sequence[str] = (),
    callback: Callable[[list[str]], None] | None = None,
) -> list[str]:
    """The whole text of each row of a stream; callback gets the `pieces` as they come."""
    steps: list[list[str]] = []
    for step in pieces(stream, vocabulary, stop):
        steps.append(step)
        if callback is not None:
            callback(step)
    return ["".join(row) for row in zip(*steps, strict=True)]
