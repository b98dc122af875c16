"""A SELECT's own text over rows whose LLM calls are columns already."""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from dataclasses import replace
from types import MappingProxyType

from halo_sql.errors import Span
from halo_sql.grammar.binding import Binding, BoundQuery
from halo_sql.grammar.block import Block, Described, row_calls
from halo_sql.grammar.call_site import CallSite
from halo_sql.grammar.called import contains_query, functions_in
from halo_sql.grammar.carried import carried_columns
from halo_sql.grammar.checked import checked_fragment
from halo_sql.grammar.expressions import grouping, own_tokens
from halo_sql.grammar.grouped import call_text
from halo_sql.grammar.hoist import Hoister
from halo_sql.grammar.names import Scope
from halo_sql.grammar.skeleton import Range, Select, identifier
from halo_sql.grammar.source import Source
from halo_sql.grammar.texts import FragmentText, Part, alias, by_id, hidden
from halo_sql.grammar.user_functions import are_row_wise, are_volatile
from halo_sql.ir.expr import Column, ColumnId, column_expr, quote
from halo_sql.ir.logical import LogicalPlan, Project
from halo_sql.ir.walk import output_columns

CALLS_TABLE = "__halo_calls"
_GROUPED = ("GROUP", "HAVING", "SAMPLE")


def bind_tail(block: Block, described: Described) -> BoundQuery:
    """The text of the block without FROM and WHERE over the rows so far."""
    binding, hoister, select = block.binding, block.hoister, block.select
    text = FragmentText()
    removed = [select.clauses[clause] for clause in ("FROM", "WHERE") if clause in select.clauses]
    calls = [
        call
        for call in row_calls(block, select.range)
        if id(call) in hoister.outputs and not any(first <= call.first < end for first, end in removed)
    ]
    for call in calls:
        text.cut(call.span, call_text(block, call, hidden(hoister.output_of(call))))
    extra = {hoister.output_of(call) for call in calls} | _put_stand_ins(block, select.range, text)
    shown = [column for column in output_columns(hoister.plan) if column.id in extra]
    shown += [column for column in hoister.scope.merged.values() if column not in shown]
    _put_subqueries(block, select.range, text)
    source = source_text(text, hoister, shown)
    _hide_extras(binding, select, hoister.scope, shown, text)
    _rewrite_names(block, described, text)
    parts = _block_parts(binding, block.grouped or select, text, source, block.grouped is not None)
    prefix = binding.cte_prefix(" ".join(piece for piece in parts if isinstance(piece, str)), block.context)
    columns = tuple(binding.new_column(name, kind) for name, kind in described)
    label = _label(binding, select)
    fragment = checked_fragment(binding, [prefix, *parts], columns, text.inputs, label, _where(block, calls))
    if label == "Unnest" and not prefix and _only_unnests(block, calls) and len(text.inputs) == 1:
        fragment = replace(fragment, row_wise=True)
    fragment = replace(fragment, carried=carried_columns(block, len(columns)))
    return BoundQuery(fragment, columns, "ORDER" in select.clauses)


def _only_unnests(block: Block, calls: Sequence[CallSite]) -> bool:
    """Whether a block that unnests does nothing else that looks at more than one row."""
    binding, select = block.binding, block.select
    if select.distinct or block.grouped is not None or not select.clauses.keys() <= {"SELECT", "FROM", "WHERE"}:
        return False
    if contains_query(binding.source, *select.clauses["SELECT"]):
        return False
    functions = functions_in(binding.source, *select.clauses["SELECT"], calls)
    return are_row_wise(functions - {"unnest"}, binding.duck) and not are_volatile(functions, binding.duck)


def filter_by_text(block: Block, condition: Range) -> LogicalPlan:
    """The rows so far for which a condition holds that only DuckDB can take apart, under the user's names."""
    binding, hoister = block.binding, block.hoister
    lexed, kept = binding.lexed, output_columns(hoister.plan)
    text = FragmentText()
    calls = [call for call in row_calls(block, condition) if id(call) in hoister.outputs]
    for call in calls:
        text.cut(call.span, hidden(hoister.output_of(call)))
    _put_stand_ins(block, condition, text)
    _put_subqueries(block, condition, text)
    source = source_text(text, hoister, kept)
    cut_names(block, lexed.span(*condition), text, binding.source)
    span = lexed.span(*condition)
    items = ", ".join(hidden(column.id) for column in kept)
    parts: list[Part] = [f"SELECT {items} FROM ", *source, " WHERE ("]
    parts += [*text.parts(lexed.sql, span.start, span.end), ")"]
    prefix = binding.cte_prefix(" ".join(piece for piece in parts if isinstance(piece, str)), block.context)
    columns = tuple(binding.new_column(column.name, column.type) for column in kept)
    where = _where(block, calls) or span
    fragment = checked_fragment(binding, [prefix, *parts], columns, text.inputs, "Filter", where)
    return Project(fragment, tuple((old, column_expr(new)) for old, new in zip(kept, columns, strict=True)))


def _where(block: Block, calls: Sequence[CallSite]) -> Span | None:
    if calls:
        return calls[0].origin()
    return block.binding.lexed.span(*block.subqueries[0][0]) if block.subqueries else None


def _put_stand_ins(block: Block, part: Range, text: FragmentText) -> set[ColumnId]:
    """Columns in the places of what they stand for; which ones."""
    inside = [one for one in block.stand_ins if part[0] <= one.first and one.end <= part[1]]
    for one in inside:
        text.cut(one.span, hidden(one.column))
    return {one.column for one in inside}


def _put_subqueries(block: Block, part: Range, text: FragmentText) -> None:
    for inner, query in block.subqueries:
        if part[0] <= inner[0] and inner[1] <= part[1]:
            text.cut(block.binding.lexed.span(*inner), text.query(query))


def source_text(text: FragmentText, hoister: Hoister, shown: Sequence[Column]) -> list[Part]:
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


def _hide_extras(binding: Binding, select: Select, scope: Scope, shown: Sequence[Column], text: FragmentText) -> None:
    """Keep call columns out of ``*``: stars exclude them, or are written out where USING merged columns."""
    lexed = binding.lexed
    if "SELECT" not in select.clauses or not shown:
        return
    first, end = select.clauses["SELECT"]
    extras = ", ".join(hidden(column.id) for column in shown)
    for index in own_tokens(binding.source, first, end):
        if lexed.text(index) != "*" or not (index == first or _is_star(binding, index)):
            continue
        qualifier = lexed.text(index - 2).strip('"') if index > first and lexed.text(index - 1) == "." else None
        span = lexed.span(index, index + 1)
        if qualifier is not None and len(scope.tables) > 1:
            continue  # t.* has the columns of t only
        if lexed.word(index + 1) == "EXCLUDE":
            if lexed.text(index + 2) == "(":
                text.cut(lexed.span(index + 2, index + 3), f"({extras}, ")
            else:
                text.cut(lexed.span(index + 2, index + 3), f"({extras}, {lexed.text(index + 2)})")
        elif scope.merged and qualifier is None:
            text.cut(span, ", ".join(_qualified(scope, column) for column in scope.star() or ()))
        else:
            text.cut(span, f"* EXCLUDE ({extras})")


def _qualified(scope: Scope, column: Column) -> str:
    if column in scope.merged.values():
        return f"{CALLS_TABLE}.{hidden(column.id)} AS {quote(column.name)}"
    table = next(table for table in scope.tables if column in table.columns)
    return f"{quote(table.alias)}.{quote(column.name)}"


def _is_star(binding: Binding, index: int) -> bool:
    """Whether ``*`` is a star expression (not multiplication, not ``count(*)``, not the ``*`` of ``*COLUMNS(…)``)."""
    lexed = binding.lexed
    before = lexed.text(index - 1)
    if before == "(":
        return lexed.word(index - 2) == "COLUMNS"
    return before in (",", ".") and lexed.word(index + 1) != "COLUMNS"


def _rewrite_names(block: Block, described: Described, text: FragmentText) -> None:
    """Names that the rebuilt tables would not have, outside FROM; a bare SELECT item keeps its name."""
    lexed, clauses = block.binding.lexed, block.select.clauses
    span = lexed.span(*block.select.range)
    written = (block.grouped or block.select).clauses
    gone = ("FROM", "WHERE") if block.grouped is None else ("FROM", "WHERE", *_GROUPED)
    removed = [lexed.span(*written[clause]) for clause in gone if clause in written]
    outputs = {name.lower() for name, _ in described}
    whole = {lexed.span(*item.range).start: lexed.span(*item.range).end for item in block.items if not item.alias}
    keys = {lexed.tokens[first].start for first, _ in lexed.items(*clauses["ORDER"])} if "ORDER" in clauses else set()
    cut_names(
        block,
        span,
        text,
        block.binding.source,
        removed,
        whole,
        {start for start in keys if _named_at(block, start) in outputs},
    )


def _named_at(block: Block, start: int) -> str:
    lexed = block.binding.lexed
    index = lexed.at(start)
    bare = lexed.text(index + 1) in ("", ",", ")") or lexed.word(index + 1) in (
        "ASC",
        "DESC",
        "NULLS",
        "LIMIT",
        "OFFSET",
    )
    return identifier(lexed.text(index)).lower() if bare else ""


def cut_names(
    block: Block,
    span: Span,
    text: FragmentText,
    source: Source,
    removed: Sequence[Span] = (),
    items: Mapping[int, int] = MappingProxyType({}),
    kept: Set[int] = frozenset(),
) -> None:
    """Write out USING columns, whole rows, and tables behind their schema, in a span of ``source``.

    removed  spans without names to change; items: start -> end of SELECT items; kept: starts of names to leave
    """
    scope = block.hoister.scope
    for parts in source.syntax.columns_within(span.start, span.end):
        start, end, name = parts[0].start, parts[-1].end, parts[0].name
        if start in kept or any(part.start <= start < part.end for part in removed):
            continue
        if any(cut.start <= start < cut.end for cut, _ in text.cuts):
            continue
        named = f" AS {quote(name)}" if items.get(start) == end else ""
        merged_column = scope.merged.get(name.lower())
        found = scope.resolve(parts)
        if len(parts) == 1 and merged_column is not None:
            text.cut(Span(start, end), f"{CALLS_TABLE}.{hidden(merged_column.id)}{named}")
        elif found is not None and found[1] > 2:  # schema.table.column
            text.cut(Span(start, parts[found[1] - 2].start), "")
        elif len(parts) == 1 and found is None and (row := scope.row(name)):
            fields = ", ".join(f"{quote(column.name)} := {quote(name)}.{quote(column.name)}" for column in row)
            text.cut(Span(start, end), f"struct_pack({fields}){named}")


def _block_parts(
    binding: Binding, select: Select, text: FragmentText, source: Sequence[Part], grouped: bool
) -> list[Part]:
    """The block's text with FROM replaced and WHERE removed; ``grouped``: GROUP BY, HAVING and SAMPLE, too."""
    lexed = binding.lexed
    span = lexed.span(*select.range)
    clauses = select.clauses
    if "WHERE" in clauses:
        text.cut(lexed.span(clauses["WHERE"][0] - 1, clauses["WHERE"][1]), "")
    for clause in _GROUPED if grouped else ():
        if clause in clauses:
            first, end = clauses[clause]
            whole = lexed.span(first - (1 if clause == "HAVING" else 2), end)
            text.cuts = [cut for cut in text.cuts if not _within(cut[0], whole)]
            text.cut(whole, "")
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


def _label(binding: Binding, select: Select) -> str:
    if "GROUP" in select.clauses:
        return "Aggregate"
    kind = grouping(binding.source, *select.clauses.get("SELECT", (0, 0)), binding.duck)
    return kind.capitalize() or ("Distinct" if select.distinct else "Select")
