"""Texts for sqlglot: the same text with what it does not take blanked, so that positions stay."""

from __future__ import annotations

from halo_sql.errors import Span
from halo_sql.grammar.lex import Lexed


def orders(lexed: Lexed, index: int) -> bool:
    """Whether ORDER BY stands at a token."""
    return lexed.word(index) == "ORDER" and lexed.word(index + 1) == "BY"


def for_sqlglot(lexed: Lexed, start: int, end: int) -> str:
    """The text between two positions with DISTINCT and ORDER BY among LLM_REDUCE's arguments blanked."""
    characters: list[str] = []
    at = start

    def blank(index: int, other: str = "") -> None:
        nonlocal at
        span: Span = lexed.span(index, index + 1)
        characters.append(lexed.sql[at : span.start])
        characters.append(other.ljust(span.end - span.start))
        at = span.end

    for index in range(len(lexed.tokens)):
        if lexed.word(index) != "LLM_REDUCE" or lexed.text(index + 1) != "(" or lexed.tokens[index].start < start:
            continue
        for inside in lexed.level(index + 2, lexed.partner[index + 1]):
            word = lexed.word(inside)
            if orders(lexed, inside):
                blank(inside, ",")
            elif word in ("DISTINCT", "BY", "ASC", "DESC", "NULLS", "FIRST", "LAST") and not lexed.column_label(inside):
                blank(inside)
    characters.append(lexed.sql[at:end])
    return "".join(characters)
