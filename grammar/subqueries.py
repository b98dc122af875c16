"""Sub-queries with LLM calls in a token range, bound on their own."""

from __future__ import annotations

from collections.abc import Callable

from halo_sql.errors import BinderError, NotSupportedError
from halo_sql.grammar.binding import Binding, BoundQuery, CteContext
from halo_sql.grammar.skeleton import Range, starts_query

BindQuery = Callable[[int, int, CteContext], BoundQuery]


def bound_subqueries(
    binding: Binding, part: Range, context: CteContext, bind_query: BindQuery, skip: Range = (0, 0)
) -> list[tuple[Range, BoundQuery]]:
    """The outermost ones with their ranges (brackets included), those within ``skip`` left out."""
    lexed, found = binding.lexed, []
    index = part[0]
    while index < part[1]:
        if index == skip[0] and skip[1] > index:
            index = skip[1]
            continue
        if lexed.text(index) == "(" and starts_query(lexed, index + 1):
            closing = lexed.partner[index]
            if binding.tainted(index, closing + 1, context):
                found.append(((index, closing + 1), bind_alone(binding, (index, closing + 1), context, bind_query)))
            index = closing + 1
            continue
        index += 1
    return found


def bind_alone(binding: Binding, part: Range, context: CteContext, bind_query: BindQuery) -> BoundQuery:
    """One bracketed sub-query. DuckDB has bound it in its place, so what it misses alone is the outer query's."""
    try:
        return bind_query(part[0] + 1, part[1] - 1, context)
    except BinderError as problem:
        if "not found" not in problem.message:
            raise
        raise NotSupportedError(
            "an LLM call in a sub-query that reads columns of the outer query is not available in this version",
            span=problem.span or binding.lexed.span(*part),
            remedy="Write it as a join, and call it on the join's rows.",
        ) from None
