"""Texts made by replacing spans of another text, with positions mapped back."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from halo_sql.errors import Span
from halo_sql.quick import quick_init


@dataclass(frozen=True, slots=True)
class Spliced:
    """A text with, for each of its pieces, where it came from.

    starts   start of each piece in ``text``
    origins  span in the original for each piece; pieces of equal length map position by position,
             others as a whole
    """

    text: str
    starts: tuple[int, ...]
    lengths: tuple[int, ...]
    origins: tuple[Span, ...]

    def origin(self, span: Span) -> Span:
        """The original span behind a span of the new text."""
        first = self._piece(span.start)
        origin, start = self.origins[first], self.starts[first]
        if self.lengths[first] == origin.end - origin.start:
            moved = origin.start + span.start - start
            length = max(1, span.end - span.start)
            return Span(moved, max(moved + 1, min(moved + length, origin.end)))
        return origin

    def pieces(self) -> Iterator[tuple[str, Span]]:
        """The text of each piece, and the span it stands for."""
        for start, length, origin in zip(self.starts, self.lengths, self.origins, strict=True):
            yield self.text[start : start + length], origin

    def _piece(self, position: int) -> int:
        return max(0, bisect_right(self.starts, position) - 1)


@quick_init
@dataclass(frozen=True, slots=True)
class Piece:
    """New text and the original span it stands for."""

    text: str
    origin: Span


def assemble(pieces: Sequence[Piece]) -> Spliced:
    """The text of all pieces."""
    starts, at = [], 0
    kept = [piece for piece in pieces if piece.text]
    for piece in kept:
        starts.append(at)
        at += len(piece.text)
    if not kept:
        return Spliced("", (0,), (0,), (Span(0, 0),))
    return Spliced(
        "".join(piece.text for piece in kept),
        tuple(starts),
        tuple(len(piece.text) for piece in kept),
        tuple(piece.origin for piece in kept),
    )


def pieces_of(sql: str, start: int, end: int, replacements: Sequence[tuple[Span, Sequence[Piece]]]) -> list[Piece]:
    """``sql[start:end]`` with some spans replaced (in order, not overlapping; those outside are ignored)."""
    pieces, at = [], start
    for span, new in sorted(replacements, key=lambda pair: pair[0].start):
        if span.start < at or span.end > end:
            continue
        pieces.append(Piece(sql[at : span.start], Span(at, span.start)))
        pieces += new
        at = span.end
    pieces.append(Piece(sql[at:end], Span(at, end)))
    return pieces
