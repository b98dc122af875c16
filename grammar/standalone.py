"""Sub-queries that read nothing of the query around them: parts of an expression like any other text."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from halo_sql.errors import Error, InterruptedQueryError, Span
from halo_sql.grammar.binding import Binding, CteContext
from halo_sql.grammar.skeleton import Range, starts_query


@dataclass(frozen=True, slots=True)
class Standalone:
    """A bracketed sub-query and the text that means the same anywhere: with the CTEs it reads in front."""

    first: int
    end: int
    span: Span
    text: str


def standalone_queries(binding: Binding, part: Range, context: CteContext) -> list[Standalone]:
    """The outermost sub-queries of a token range that DuckDB binds alone, brackets included.

    What binds alone binds the same in its place: a name means the inner table's column before the outer one's.
    Those with calls of their own are none.
    """
    found = []
    for first, end in _outermost(binding, part):
        if binding.tainted(first, end, context) or not _binds_alone(binding, (first + 1, end - 1), context):
            continue
        text = binding.lexed.slice(first + 1, end - 1)
        prefix = binding.cte_prefix(text, context)
        if prefix and binding.lexed.word(first + 1) in ("WITH", "FROM", "VALUES"):
            text = f"SELECT * FROM ({text}\n)"
        found.append(Standalone(first, end, binding.lexed.span(first, end), f"({prefix}{text}\n)"))
    return found


def _outermost(binding: Binding, part: Range) -> Iterator[Range]:
    lexed, index = binding.lexed, part[0]
    while index < part[1]:
        if lexed.text(index) == "(" and starts_query(lexed, index + 1):
            yield index, lexed.partner[index] + 1
            index = lexed.partner[index]
        index += 1


def _binds_alone(binding: Binding, part: Range, context: CteContext) -> bool:
    try:
        binding.describe(binding.shadow(*part), context)
    except InterruptedQueryError:
        raise
    except Error:
        return False
    return True
