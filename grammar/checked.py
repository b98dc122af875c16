"""Fragments as DuckDB will see them, bound before anything runs.

The shadow of a statement has shown that DuckDB takes the user's text with an expression in each call's place. In
a fragment a call is a column; a place that wants a constant, or a name that cannot be rebuilt, shows up here.
"""

from __future__ import annotations

from collections.abc import Sequence

from halo_sql.errors import Error, NotSupportedError, Span
from halo_sql.grammar.binding import Binding
from halo_sql.grammar.texts import Part, merged, narrowed
from halo_sql.ir.expr import Column, quote
from halo_sql.ir.logical import Fragment, LogicalPlan
from halo_sql.ir.types import SqlType
from halo_sql.ir.walk import output_columns


def checked_fragment(
    binding: Binding,
    parts: Sequence[Part],
    columns: tuple[Column, ...],
    inputs: Sequence[LogicalPlan],
    label: str,
    where: Span | None,
) -> Fragment:
    """The fragment, its inputs cut down to the columns its text names where DuckDB agrees.

    NotSupportedError at ``where`` when DuckDB refuses the text or gives it other types than ``columns``.
    """
    whole = merged(parts)
    wanted = [column.type for column in columns]
    narrow = narrowed(whole)
    problem = ""
    for candidate in dict.fromkeys((narrow, whole)):
        try:
            found = [kind for _, kind in fragment_columns(binding, candidate, inputs)]
        except Error as refused:
            problem = refused.message.splitlines()[0]
            continue
        if found == wanted:
            return Fragment(candidate, columns, tuple(inputs), label)
        problem = _difference(columns, found)
    raise NotSupportedError(
        f"an LLM call cannot stand here in this version: {problem}",
        span=where,
        remedy="Compute it in a sub-query in FROM and use its column here.",
    )


def fragment_columns(
    binding: Binding, parts: Sequence[Part], inputs: Sequence[LogicalPlan]
) -> list[tuple[str, SqlType]]:
    """Names and types of a fragment's text over empty inputs."""
    pieces = []
    for part in parts:
        if isinstance(part, str):
            pieces.append(part)
            continue
        types = {column.id: column.type for column in output_columns(inputs[part.index])}
        items = [f"CAST(NULL AS {types[column].text}) AS {quote(name)}" for name, column in part.names]
        pieces.append(f"(SELECT * FROM (SELECT {', '.join(items) or 'NULL'}))")
    return binding.probe("".join(pieces))


def _difference(columns: Sequence[Column], found: Sequence[SqlType]) -> str:
    if len(columns) != len(found):
        return f"it changes the number of columns from {len(columns)} to {len(found)}"
    for column, kind in zip(columns, found, strict=True):
        if column.type != kind:
            return f'it changes the type of "{column.name}" from {column.type} to {kind}'
    return ""
