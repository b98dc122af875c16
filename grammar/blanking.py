"""Texts for sqlglot: the same text with what it does not take blanked, so that positions stay."""

from __future__ import annotations

from halo_sql.errors import Span
from halo_sql.grammar.lex import Lexed
from halo_sql.grammar.operators_table import OPERATORS

_SCALAR = frozenset(name for name in OPERATORS if name.startswith("LLM_")) - {"LLM_REDUCE"}
_WORDS = frozenset({"DISTINCT", "BY", "ASC", "DESC", "NULLS", "FIRST", "LAST"})
_CONSTANTS = frozenset({"TRUE", "FALSE", "NULL"})
_FOLLOWERS = frozenset({".", "[", "(", "::"})  # what a call may be the beginning of, a number not


def orders(lexed: Lexed, index: int) -> bool:
    """Whether ORDER BY stands at a token."""
    return lexed.word(index) == "ORDER" and lexed.word(index + 1) == "BY"


def for_sqlglot(lexed: Lexed, start: int, end: int) -> str:
    """The text between two positions with DISTINCT and ORDER BY among LLM_REDUCE's arguments blanked, and a ``0`` where
    a call stands that names no column outside its prompt: half of what sqlglot would read, and nothing of use there."""
    characters: list[str] = []
    at = start

    def blank(first: int, stop: int, other: str = "") -> None:
        nonlocal at
        span: Span = lexed.span(first, stop)
        characters.append(lexed.sql[at : span.start])
        characters.append(other.ljust(span.end - span.start))
        at = span.end

    for index, word in enumerate(lexed.words):
        if not word.startswith("LLM_") or lexed.text(index + 1) != "(" or not at <= lexed.tokens[index].start < end:
            continue
        closing = lexed.partner[index + 1]
        if word in _SCALAR:
            if _is_constant(lexed, index, closing):
                blank(index, closing + 1, "0")
        elif word == "LLM_REDUCE":
            for inside in lexed.level(index + 2, closing):
                inner = lexed.word(inside)
                if orders(lexed, inside):
                    blank(inside, inside + 1, ",")
                elif inner in _WORDS and not lexed.column_label(inside):
                    blank(inside, inside + 1)
    characters.append(lexed.sql[at:end])
    return "".join(characters)


def _is_constant(lexed: Lexed, index: int, closing: int) -> bool:
    """Whether the call at a token has literals for arguments, and is a whole operand."""
    if lexed.text(index - 1) == "." or lexed.text(closing + 1) in _FOLLOWERS or lexed.word(closing + 1) == "OVER":
        return False
    for inside in range(index + 2, closing):
        named = lexed.tokens[inside].kind in ("identifier", "keyword") and lexed.word(inside) not in _CONSTANTS
        if named and lexed.text(inside + 1) not in ("=>", ":="):
            return False
    return True
