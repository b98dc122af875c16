"""A SELECT's own text over rows whose LLM calls are columns already."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from halo_sql.errors import Span
from halo_sql.grammar.binding import Binding, BoundQuery, CteContext
from halo_sql.grammar.calls import CallSite
from halo_sql.grammar.expressions import grouping
from halo_sql.grammar.hoist import Hoister
from halo_sql.grammar.names import Scope
from halo_sql.grammar.skeleton import Range, Select
from halo_sql.grammar.texts import FragmentText, Part, alias, by_id, merged, narrowed
from halo_sql.ir.expr import Column, quote
from halo_sql.ir.logical import Fragment
from halo_sql.ir.physical import batch_name
from halo_sql.ir.walk import output_columns

CALLS_TABLE = "__halo_calls"


def bind_tail(
    binding: Binding,
    hoister: Hoister,
    context: CteContext,
    subqueries: Sequence[tuple[Range, BoundQuery]],
    select_text: tuple[str, Any],
    where: Range | None = None,
    block: Select | None = None,
) -> tuple[Fragment, tuple[Column, ...]]:
    """A fragment over the hoister's plan.

    select_text  ('all', columns): these columns of the plan, kept by ``where``;
                 ('block', described): the text of ``block`` without FROM and WHERE
    """
    lexed = binding.lexed
    text = FragmentText()
    part = where if block is None else block.range
    assert part is not None
    calls = [call for call in binding.calls_in(*part) if id(call) in hoister.outputs]
    for call in calls:
        text.cut(call.span, _call_text(binding, hoister, call, block))
    extra = sorted({hoister.output_of(call) for call in calls})
    for inner, query in subqueries:
        if part[0] <= inner[0] and inner[1] <= part[1]:
            text.cut(lexed.span(*inner), text.query(query))
    what, detail = select_text
    shown = list(detail) if what == "all" else [column for column in output_columns(hoister.plan) if column.id in extra]
    shown += [column for column in hoister.scope.merged.values() if column not in shown]
    source = _source(text, hoister, shown)
    span = lexed.span(*part)
    if what == "all":
        columns = tuple(binding.new_column(column.name, column.type) for column in detail)
        items = ", ".join(batch_name(column.id) for column in detail)
        parts: list[Part] = [
            f"SELECT {items} FROM ",
            *source,
            " WHERE (",
            *text.parts(lexed.sql, span.start, span.end),
            ")",
        ]
        label = "Filter"
    else:
        assert block is not None
        columns = tuple(binding.new_column(name, kind) for name, kind in detail)
        _hide_extras(binding, block, hoister.scope, shown, text)
        _merged_names(binding, block, hoister.scope, text)
        parts = _block_parts(binding, block, text, source)
        label = _label(binding, block)
    prefix = binding.cte_prefix(" ".join(piece for piece in parts if isinstance(piece, str)), context)
    return Fragment(narrowed(merged([prefix, *parts])), columns, tuple(text.inputs), label), columns


def _source(text: FragmentText, hoister: Hoister, shown: Sequence[Column]) -> list[Part]:
    """The FROM text: the scope's tables rebuilt over the plan, and a table of the call columns beside them.

    A single table holds the call columns too; several are put together again row by row.
    """
    plan, tables = hoister.plan, hoister.scope.tables
    if not tables:
        return [text.relation(plan, by_id(shown) or by_id(output_columns(plan)[:1])), alias(CALLS_TABLE)]
    if len(tables) == 1 and not hoister.scope.merged:
        names = [(column.name, column.id) for column in tables[0].columns]
        return [text.relation(plan, (*names, *by_id(shown))), alias(tables[0].alias)]
    parts: list[Part] = []
    for table in tables:
        names = [(column.name, column.id) for column in table.columns]
        parts += [text.relation(plan, names), alias(table.alias), " POSITIONAL JOIN "]
    kept = by_id(shown) or by_id(output_columns(plan)[:1])
    return [*parts, text.relation(plan, kept), alias(CALLS_TABLE)]


def _call_text(binding: Binding, hoister: Hoister, call: CallSite, block: Select | None) -> str:
    """The call's column; in a grouped block, where the call depends on the group alone, one value of the group."""
    name = batch_name(hoister.output_of(call))
    if block is None or "GROUP" not in block.clauses:
        return name
    lexed = binding.lexed
    grouped = lexed.slice(*block.clauses["GROUP"])
    if call.text in grouped or lexed.word(block.clauses["GROUP"][0]) == "ALL":
        return name
    aggregates = binding.duck.aggregate_functions()
    opening = lexed.parent[call.first]
    while opening >= block.range[0]:
        if lexed.text(opening) == "(" and lexed.word(opening - 1).lower() in aggregates | {"filter", "over"}:
            return name
        opening = lexed.parent[opening]
    for position, (first, end) in enumerate(lexed.split(*block.clauses.get("SELECT", (0, 0)))):
        if first <= call.first < end:
            keys = [lexed.slice(*key).lower() for key in lexed.split(*block.clauses["GROUP"]) if key[0] < key[1]]
            if str(position + 1) in keys or lexed.text(end - 1).strip('"').lower() in [key.strip('"') for key in keys]:
                return name
    return f"any_value({name})"


def _hide_extras(binding: Binding, block: Select, scope: Scope, shown: Sequence[Column], text: FragmentText) -> None:
    """Keep call columns out of ``*``: stars exclude them, or are written out where USING merged columns."""
    lexed = binding.lexed
    if "SELECT" not in block.clauses or not shown:
        return
    first, end = block.clauses["SELECT"]
    hidden = ", ".join(batch_name(column.id) for column in shown)
    for index in range(first, end):
        if lexed.text(index) != "*" or not _is_star(binding, index):
            continue
        qualifier = lexed.text(index - 2).strip('"') if lexed.text(index - 1) == "." else None
        span = lexed.span(index, index + 1)
        if qualifier is not None and len(scope.tables) > 1:
            continue  # t.* has the columns of t only
        if lexed.word(index + 1) == "EXCLUDE":
            if lexed.text(index + 2) == "(":
                opened = lexed.span(index + 2, index + 3)
                text.cut(opened, f"({hidden}, ")
            else:
                text.cut(lexed.span(index + 2, index + 3), f"({hidden}, {lexed.text(index + 2)})")
        elif scope.merged and qualifier is None:
            text.cut(span, ", ".join(_qualified(scope, column) for column in scope.star() or ()))
        else:
            text.cut(span, f"* EXCLUDE ({hidden})")


def _qualified(scope: Scope, column: Column) -> str:
    if column in scope.merged.values():
        return f"{CALLS_TABLE}.{batch_name(column.id)} AS {quote(column.name)}"
    table = next(table for table in scope.tables if column in table.columns)
    return f"{quote(table.alias)}.{quote(column.name)}"


def _is_star(binding: Binding, index: int) -> bool:
    """Whether ``*`` is a star expression (not multiplication, not ``count(*)``)."""
    lexed = binding.lexed
    before = lexed.text(index - 1)
    if before == "(":
        return lexed.word(index - 2) == "COLUMNS"
    return before in (",", ".") or lexed.word(index - 1) in ("SELECT", "DISTINCT", "ALL") or before == ")"


def _merged_names(binding: Binding, block: Select, scope: Scope, text: FragmentText) -> None:
    """Unqualified names of USING columns, which the rebuilt tables would make ambiguous."""
    if not scope.merged:
        return
    span = binding.lexed.span(*block.range)
    from_span = binding.lexed.span(*block.clauses["FROM"])
    for parts in binding.source.syntax.columns_in(span.start, span.end) or ():
        column = scope.merged.get(parts[0].name.lower())
        if column is None or len(parts) > 1 or from_span.start <= parts[0].start < from_span.end:
            continue
        if any(cut.start <= parts[0].start < cut.end for cut, _ in text.cuts):
            continue
        text.cut(Span(parts[0].start, parts[0].end), f"{CALLS_TABLE}.{batch_name(column.id)}")


def _block_parts(binding: Binding, block: Select, text: FragmentText, source: Sequence[Part]) -> list[Part]:
    """The block's text with FROM replaced and WHERE removed."""
    lexed = binding.lexed
    span = lexed.span(*block.range)
    clauses = block.clauses
    if "WHERE" in clauses:
        text.cut(lexed.span(clauses["WHERE"][0] - 1, clauses["WHERE"][1]), "")
    if "FROM" in clauses:
        text.cuts = [cut for cut in text.cuts if not _within(cut[0], lexed.span(*clauses["FROM"]))]
        text.cut(lexed.span(*clauses["FROM"]), *source)
        return list(text.parts(lexed.sql, span.start, span.end))
    behind = lexed.span(*clauses["SELECT"]).end
    return [
        *text.parts(lexed.sql, span.start, behind),
        " FROM ",
        *source,
        " ",
        *text.parts(lexed.sql, behind, span.end),
    ]


def _within(inner: Span, outer: Span) -> bool:
    return outer.start <= inner.start and inner.end <= outer.end


def _label(binding: Binding, block: Select) -> str:
    if "GROUP" in block.clauses:
        return "Aggregate"
    kind = grouping(binding.source, *block.clauses.get("SELECT", (0, 0)), binding.duck)
    return kind.capitalize() or ("Distinct" if block.distinct else "Select")
