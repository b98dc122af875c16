"""Prompt templates: ``{{ expr }}`` holes in a text."""

from __future__ import annotations

import re
from dataclasses import dataclass

from halo_sql.errors import BinderError, ParserError, Span
from halo_sql.grammar.lex import Lexed, lex
from halo_sql.grammar.skeleton import identifier

_NOWHERE = Span(0, 0)


@dataclass(frozen=True, slots=True)
class Star:
    """``*``, ``t.*``, each also with ``EXCLUDE (a, b)``.

    text     as written
    table    the table's name; '': all tables
    without  lower-case names of the columns left out
    """

    text: str = "*"
    table: str = ""
    without: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class HoleText:
    """A hole as written.

    exprs   its expressions with their offsets in the template (one: a plain hole; several: an object hole)
    star    ``{{ * }}``, ``{{ t.* }}``
    span    the hole in the template, its braces included
    """

    exprs: tuple[tuple[str, int], ...]
    star: Star | None = None
    span: Span = _NOWHERE


Piece = str | HoleText
MAX_HOLES = 1000
#: what hides brackets and braces: quotes, E'…' with its escapes, dollar quotes, comments
_OPAQUE = re.compile(
    r"""[eE]'(?:[^'\\]|\\.|'')*'|'(?:[^']|'')*'|"(?:[^"]|"")*"|\$(?P<tag>(?:[A-Za-z_]\w*)?)\$.*?\$(?P=tag)\$"""
    r"""|--[^\n]*|/\*.*?\*/""",
    re.DOTALL,
)
_WORD = re.compile(r"[ \n]*([A-Za-z_][A-Za-z_0-9]*)[ \n]*")


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
        if character in "'\"$-/eE":
            opaque = _OPAQUE.match(text, at)
            if opaque is not None and not (character in "$eE" and at > start and _in_word(text[at - 1])):
                at = opaque.end()
                continue
            if character in "'\"":
                return text.find("}}", start)  # an odd quote: the plain reading
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


def _in_word(character: str) -> bool:
    return character.isalnum() or character in "_$"


def _hole(text: str, start: int, end: int) -> HoleText:
    inner = text[start:end]
    word = _WORD.fullmatch(inner)
    if word is not None:  # one token, whatever the tokenizer calls it
        return HoleText(((word[1], start + word.start(1)),), None, Span(start - 2, end + 2))
    if not inner.strip():
        raise BinderError(
            "a hole of the prompt is empty", span=Span(start - 2, end + 2), remedy="Name a column: {{ column }}."
        )
    try:
        lexed: Lexed = lex(inner)
    except ParserError as problem:
        if problem.span is not None:
            problem.span = Span(problem.span.start + start, problem.span.end + start)
        problem.sql = None
        raise
    star = _star(lexed, 0, len(lexed.tokens))
    if star is not None:
        return HoleText((), star, Span(start - 2, end + 2))
    exprs = []
    for first, stop in lexed.split(0, len(lexed.tokens)):
        if _star(lexed, first, stop) is not None:
            span = lexed.span(first, stop)
            raise BinderError(
                f"{lexed.slice(first, stop)} stands beside other fields of a hole",
                span=Span(start + span.start, start + span.end),
                remedy=f"Give it a hole of its own, {{{{ {lexed.slice(first, stop)} }}}}, or name the columns.",
            )
        span = lexed.span(first, stop)
        if first == stop:
            raise BinderError(
                "a hole of the prompt has an empty field",
                span=Span(start - 2, end + 2),
                remedy="Remove the comma.",
            )
        exprs.append((inner[span.start : span.end], start + span.start))
    return HoleText(tuple(exprs), None, Span(start - 2, end + 2))


def _star(lexed: Lexed, first: int, end: int) -> Star | None:
    """The star that a token range is; None when it is an expression."""
    at, table = first, ""
    if at + 2 < end + 1 and lexed.text(at + 1) == "." and lexed.text(at + 2) == "*":
        table, at = identifier(lexed.text(at)), at + 2
    if at >= end or lexed.text(at) != "*":
        return None
    without: list[str] = []
    if at + 1 < end:
        if lexed.word(at + 1) not in ("EXCLUDE", "EXCEPT"):
            return None
        names = (at + 3, lexed.partner[at + 2]) if lexed.text(at + 2) == "(" else (at + 2, end)
        pieces = lexed.items(*names)
        if any(stop != start + 1 for start, stop in pieces):
            return None
        without = [identifier(lexed.text(start)).lower() for start, _ in pieces]
    return Star(lexed.slice(first, end), table, tuple(without))
