"""Which functions a range of tokens calls, and whether a sub-query stands in it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from halo_sql.errors import Span
from halo_sql.grammar.skeleton import starts_query
from halo_sql.grammar.source import Source

#: words in front of a bracket that are syntax, not functions
_SYNTAX = frozenset(
    [
        "AND",
        "OR",
        "NOT",
        "IN",
        "IS",
        "AS",
        "ON",
        "CASE",
        "WHEN",
        "THEN",
        "ELSE",
        "CAST",
        "TRY_CAST",
        "EXTRACT",
        "COALESCE",
        "LIKE",
        "ILIKE",
        "BETWEEN",
    ]
)

_BEFORE_TYPES = ("AS", "::")  # CAST(x AS DECIMAL(4, 2)), x::DECIMAL(4, 2)


class Placed(Protocol):
    """What a column stands for in a text: a call, or any part that is computed already."""

    @property
    def first(self) -> int:
        """Its first token."""
        ...

    @property
    def end(self) -> int:
        """The token behind it."""
        ...

    @property
    def span(self) -> Span:
        """Its characters."""
        ...


def contains_query(source: Source, first: int, end: int) -> bool:
    """Whether a sub-query stands in a token range."""
    lexed = source.lexed
    tokens = lexed.tokens
    return any(tokens[index].text == "(" and starts_query(lexed, index + 1) for index in range(first, end))


def functions_in(source: Source, first: int, end: int, besides: Sequence[Placed] = ()) -> set[str]:
    """Lower-case names of the functions called in a token range, some calls and what is inside them left out."""
    lexed = source.lexed
    tokens = lexed.tokens
    return {
        tokens[index].text.strip('"').lower()
        for index in range(first, end - 1)
        if tokens[index + 1].text == "("
        and lexed.tokens[index].kind in ("identifier", "keyword")
        and lexed.word(index) not in _SYNTAX
        and lexed.text(index - 1).upper() not in _BEFORE_TYPES
        and not any(call.first <= index < call.end for call in besides)
    }
