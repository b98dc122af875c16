"""Prompt templates: ``{{ expr }}`` holes in a text."""

from __future__ import annotations

import re
from dataclasses import dataclass

from halo_sql.errors import BinderError, ParserError, Span
from halo_sql.grammar.lex import Lexed, lex


@dataclass(frozen=True, slots=True)
class HoleText:
    """A hole as written.

    exprs   its expressions with their offsets in the template (one: a plain hole; several: an object hole)
    star    ``{{ * }}``
    """

    exprs: tuple[tuple[str, int], ...]
    star: bool = False


Piece = str | HoleText
MAX_HOLES = 1000
_TABLE_STAR = re.compile(r'(\w+|"[^"]+")\s*\.\s*\*')


def parse_template(text: str) -> tuple[Piece, ...]:
    """Static texts and holes of a template. BinderError (span in the template) for an empty or unclosed hole.

    ``{{{{`` is a literal ``{{``. A hole ends at the first ``}}`` outside quotes and brackets of its expression.
    """
    pieces: list[Piece] = []
    static: list[str] = []
    at = holes = 0
    while True:
        opening = text.find("{{", at)
        if opening < 0:
            static.append(text[at:])
            break
        static.append(text[at:opening])
        if text.startswith("{{{{", opening):
            static.append("{{")
            at = opening + 4
            continue
        closing = _closing(text, opening + 2)
        if closing < 0:
            raise BinderError(
                "a hole of the prompt is never closed",
                span=Span(opening, min(len(text), opening + 2)),
                remedy="End it with }}, or write {{{{ for a literal {{.",
            )
        if any(static):
            pieces.append("".join(static))
        static = []
        holes += 1
        if holes > MAX_HOLES:
            raise BinderError(
                f"a prompt has more than {MAX_HOLES} holes",
                span=Span(opening, closing + 2),
                remedy="Put several columns into one hole: {{ a, b }}.",
            )
        pieces.append(_hole(text, opening + 2, closing))
        at = closing + 2
    if any(static):
        pieces.append("".join(static))
    return tuple(pieces)


def _closing(text: str, start: int) -> int:
    """Position of the ``}}`` that ends a hole; -1 when there is none."""
    depth, at = 0, start
    while at < len(text):
        character = text[at]
        if character in "'\"":
            end = text.find(character, at + 1)
            if end < 0:
                return text.find("}}", start)  # an odd quote: the plain reading
            at = end + 1
            continue
        if character in "([{":
            depth += 1
        elif character in ")]":
            depth -= 1
        elif character == "}":
            if depth <= 0 and text.startswith("}}", at):
                return at
            depth -= 1
        at += 1
    return text.find("}}", start)


def _hole(text: str, start: int, end: int) -> HoleText:
    inner = text[start:end]
    if not inner.strip():
        raise BinderError(
            "a hole of the prompt is empty", span=Span(start - 2, end + 2), remedy="Name a column: {{ column }}."
        )
    if inner.strip() == "*":
        return HoleText((), star=True)
    if _TABLE_STAR.fullmatch(inner.strip()):
        raise BinderError(
            f"a hole cannot hold {inner.strip()}", span=Span(start - 2, end + 2), remedy="Use {{ * }}, or name columns."
        )
    try:
        lexed: Lexed = lex(inner)
    except ParserError as problem:
        if problem.span is not None:
            problem.span = Span(problem.span.start + start, problem.span.end + start)
        problem.sql = None
        raise
    exprs = []
    for first, stop in lexed.split(0, len(lexed.tokens)):
        span = lexed.span(first, stop)
        if first == stop:
            raise BinderError(
                "a hole of the prompt has an empty field",
                span=Span(start - 2, end + 2),
                remedy="Remove the comma.",
            )
        exprs.append((inner[span.start : span.end], start + span.start))
    return HoleText(tuple(exprs))
