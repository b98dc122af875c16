"""A statement with its views and macros written out, and the way back to what the user wrote."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from halo_sql.errors import Error, Span
from halo_sql.grammar.holes import Edit, Place
from halo_sql.grammar.lex import Lexed
from halo_sql.grammar.splice import Piece


@dataclass(frozen=True, slots=True)
class Mark(Piece):
    """A piece, and which definition it comes from ('' for the statement itself)."""

    label: str = ""


@dataclass(frozen=True, slots=True)
class Expanded:
    """A statement with its views and macros written out."""

    text: str
    pieces: tuple[Piece, ...]
    starts: tuple[int, ...]

    def origin(self, span: Span) -> Span:
        """The place in the user's statement behind a place of the text."""
        piece, start = self._at(span.start)
        if len(piece.text) == piece.origin.end - piece.origin.start:
            moved = piece.origin.start + span.start - start
            return Span(moved, max(moved + 1, min(moved + span.end - span.start, piece.origin.end)))
        return piece.origin

    def explain(self, problem: Error, sql: str) -> None:
        """Make an error that points into the text one that points into the user's statement."""
        if problem.span is None:
            return
        label = self.label(problem.span.start)
        problem.span, problem.sql = self.origin(problem.span), sql
        if label and not problem.message.startswith("in the "):
            problem.message = f"{label}: {problem.message}"

    def is_argument(self, span: Span | None, sql: str) -> bool:
        """Whether a place of the statement is where other text was put in."""
        return span is not None and any(
            piece.origin.start < span.end
            and span.start < piece.origin.end
            and piece.text != sql[piece.origin.start : piece.origin.end]
            for piece in self.pieces
        )

    def label(self, position: int) -> str:
        """How errors name the definition a place of the text comes from; '' for the statement itself."""
        return str(getattr(self._at(position)[0], "label", ""))

    def part(self, start: int, end: int) -> Iterator[Piece]:
        """The pieces of a part of the text."""
        for piece, at in zip(self.pieces, self.starts, strict=True):
            left, right = max(start, at), min(end, at + len(piece.text))
            if left < right:
                yield Mark(self.text[left:right], self.origin(Span(left, right)), getattr(piece, "label", ""))

    def _at(self, position: int) -> tuple[Piece, int]:
        index = max(0, bisect_right(self.starts, position) - 1)
        return self.pieces[index], self.starts[index]


def pieces_with(lexed: Lexed, edits: Sequence[Edit], place: Place, label: str) -> list[Piece]:
    """A text with its edits made; an edit inside another one is part of it already."""
    pieces: list[Piece] = []
    at = 0
    for span, new in sorted(edits, key=lambda edit: (edit[0].start, edit[0].end)):
        if span.start < at:
            continue
        if span.start > at:
            pieces.append(Mark(lexed.sql[at : span.start], place(Span(at, span.start)), label))
        pieces += [piece if isinstance(piece, Mark) else Mark(piece.text, piece.origin, label) for piece in new]
        at = span.end
    if at < len(lexed.sql):
        pieces.append(Mark(lexed.sql[at:], place(Span(at, len(lexed.sql))), label))
    return pieces


def assembled(pieces: Sequence[Piece]) -> Expanded:
    """The text of all pieces."""
    kept = tuple(piece for piece in pieces if piece.text)
    starts, at = [], 0
    for piece in kept:
        starts.append(at)
        at += len(piece.text)
    return Expanded("".join(piece.text for piece in kept), kept, tuple(starts))
