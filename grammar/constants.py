"""Calls whose answer DuckDB must know to bind the statement at all: the name of a struct's field, a date format, …

Such a call has no column in its holes, and stands where DuckDB wants a constant expression. It is answered first, and
its answer is put into the text in its place.
"""

from __future__ import annotations

from halo_sql.errors import Error, NotSupportedError
from halo_sql.grammar.binding import Binding, plain, shadow_of
from halo_sql.grammar.call_site import CallSite
from halo_sql.grammar.skeleton import Range
from halo_sql.grammar.splice import Piece, assemble, pieces_of

#: What DuckDB says of an argument that must be known when it binds.
_WANTS_CONSTANT = ("constant", "NULL", "foldable", "literal")


class ConstantNeededError(NotSupportedError):
    """The answer of a call is needed before the statement can be bound; ``site`` is the call."""

    def __init__(self, site: CallSite) -> None:
        self.site = site
        super().__init__(
            "the answer of this call decides how the statement is bound",
            span=site.origin(),
            remedy="Run the statement: it is asked first. EXPLAIN alone cannot know it.",
        )


def needed_constant(binding: Binding, query: Range, problem: Error | None) -> CallSite | None:
    """The first call whose answer DuckDB needs; ``problem`` is what it said of the query with NULL answers."""
    sites = [site for site in binding.calls_in(*query) if _is_constant(site)]
    if not sites or (problem is not None and not _is_about_constants(problem)):
        return None
    for site in sites:
        try:
            binding.probe(assemble(_volatile(binding, query, site)).text)
        except Error as refused:
            if _is_about_constants(refused):
                return site
    return None


def _is_constant(site: CallSite) -> bool:
    """Whether the call asks the same whatever the row."""
    fields = [item for hole in site.holes() for item in hole.fields]
    if any(hole.star for hole in site.holes()):
        return False
    return all(item.source.syntax.parsed and not item.source.syntax.columns and not item.calls for item in fields)


def _is_about_constants(problem: Error) -> bool:
    return any(word in problem.message for word in _WANTS_CONSTANT)


def _volatile(binding: Binding, query: Range, site: CallSite) -> list[Piece]:
    """The query's shadow with one call as an expression that no binder can fold."""
    span = binding.lexed.span(*query)
    calls = []
    for call in binding.calls_in(*query):
        stub = shadow_of(call)
        if call is site:
            stub = [plain("(CASE WHEN random() < 2 THEN "), *stub, plain(" END)")]
        calls.append((call.span, stub))
    return pieces_of(binding.lexed.sql, span.start, span.end, calls)
