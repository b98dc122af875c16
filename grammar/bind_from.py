"""The FROM clause of a SELECT: its tables as a scope, its rows as a plan."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

from halo_sql.errors import Error, InterruptedQueryError, NotSupportedError, Span
from halo_sql.grammar.bind_join import joined, known_parts
from halo_sql.grammar.binding import Binding, BoundQuery, Columns, CteContext, plain
from halo_sql.grammar.join_conditions import inner_join_conditions
from halo_sql.grammar.names import Scope, Table
from halo_sql.grammar.skeleton import Range, identifier, starts_query
from halo_sql.grammar.splice import Piece
from halo_sql.grammar.subqueries import BindQuery, bind_alone
from halo_sql.grammar.texts import FragmentText, alias, merged, visible
from halo_sql.ir.expr import Column, ColumnId, quote
from halo_sql.ir.logical import CteScan, Fragment, LogicalPlan
from halo_sql.ir.types import BIGINT, SqlType

PART = "__halo_part"  # the column between what belongs to one relation and to the next, where several are asked for


@dataclass(frozen=True, slots=True)
class BoundFrom:
    """A FROM clause: its scope, and the plan of its rows under extra conditions of the user's text.

    opened  without such conditions the rows are Join nodes over the relations
    """

    scope: Scope
    plan_with: Callable[[Sequence[Range]], LogicalPlan]
    opened: bool = False


@dataclass(frozen=True, slots=True)
class Relations:
    """Sub-queries and CTE names with LLM calls in a FROM clause: where each stands and what it is bound to.

    text   the fragment text they are cut out of
    moved  conjuncts of inner joins' ON conditions with calls, cut out too: they go to WHERE
    """

    text: FragmentText
    found: tuple[tuple[Span, BoundQuery], ...] = ()
    moved: tuple[Range, ...] = ()


def bind_from(
    binding: Binding,
    clause: Range | None,
    block: Range,
    context: CteContext,
    relations: Relations,
    without: Sequence[str] = (),
) -> BoundFrom:
    """The clause behind FROM (None: a SELECT without FROM, one row).

    ``without``: names of its last items, which are not part of ``clause``."""
    if clause is None:
        one = Fragment(("SELECT 1",), (binding.new_column("one", BIGINT),), label="One row")
        return BoundFrom(Scope(), lambda conditions: _one_row(binding, one, conditions, context))
    text, replaced = relations.text, relations.found
    moved = [binding.lexed.span(*part) for part in relations.moved]
    _refuse_calls(binding, clause, [*(span for span, _ in replaced), *moved])
    node = binding.source.syntax.select_in(*_chars(binding, block))
    items = _items(node)
    items = items[: len(items) - len(without)]
    if len(items) == 1 and len(replaced) == 1 and is_whole(binding, clause, replaced[0][0]):
        query = replaced[0][1]
        name = items[0][0] or "__halo_table"
        scope = Scope((Table(name, query.columns),))
        return BoundFrom(scope, lambda conditions: _filtered(binding, scope, query.plan, conditions, context))
    scope, select_list = _scope(binding, clause, items, context)
    sql, span = binding.lexed.sql, binding.lexed.span(*clause)
    opened = _opened(binding, clause, scope, [name for name, _ in items], relations, context)
    if opened is not None:
        joins, scope = opened
        select_list = ", ".join(f"{quote(table.alias)}.*" for table in scope.tables)

    def plan_with(conditions: Sequence[Range]) -> LogicalPlan:
        if opened is not None and not conditions:
            return joins
        parts = [f"SELECT {select_list} FROM ", *text.parts(sql, span.start, span.end)]
        return _fragment(
            binding, parts, conditions, scope.columns(), tuple(text.inputs), _label(binding, clause), context
        )

    return BoundFrom(scope, plan_with, opened is not None)


def _opened(
    binding: Binding, clause: Range, scope: Scope, names: Sequence[str], relations: Relations, context: CteContext
) -> tuple[LogicalPlan, Scope] | None:
    lexed = binding.lexed
    read_alone: dict[Range, Columns | None] = {}

    def alone(item: Range) -> Columns | None:
        if item not in read_alone:
            try:
                read_alone[item] = _describe(binding, "*", item, context)
            except InterruptedQueryError:
                raise
            except Error:  # it reads columns of those before it
                read_alone[item] = None
        return read_alone[item]

    def leaf(item: Range, columns: tuple[Column, ...]) -> LogicalPlan | None:
        if alone(item) != [(column.name, column.type) for column in columns]:
            return None
        parts = ["SELECT * FROM ", lexed.slice(*item)]
        return _fragment(binding, parts, (), columns, (), _label(binding, item), context)

    def concealed(item: Range, place: int) -> Table | None:
        found = alone(item) if place < len(names) else None
        if found is None:
            return None
        return Table(names[place], tuple(binding.new_column(name, kind) for name, kind in found))

    found = [((lexed.at(span.start), lexed.at(span.end)), query) for span, query in relations.found]
    return joined(binding, clause, scope, found, relations.moved, leaf, concealed)


def _one_row(binding: Binding, one: Fragment, conditions: Sequence[Range], context: CteContext) -> LogicalPlan:
    if not conditions:
        return one
    return _fragment(binding, ["SELECT 1"], conditions, one.columns, (), "One row", context)


def _filtered(
    binding: Binding, scope: Scope, plan: LogicalPlan, conditions: Sequence[Range], context: CteContext
) -> LogicalPlan:
    if not conditions:
        return plan
    text = FragmentText()
    table = scope.tables[0]
    source = text.relation(plan, [(column.name, column.id) for column in table.columns])
    columns = tuple(binding.new_column(column.name, column.type) for column in table.columns)
    parts = ["SELECT * FROM ", source, alias(table.alias)]
    fragment = _fragment(binding, parts, conditions, columns, (plan,), "Filter", context)
    fragment = replace(fragment, carried=_unread(binding, table, conditions))
    return CteScan(fragment, binding.new_cte(), "filter", table.columns)


def _unread(binding: Binding, table: Table, conditions: Sequence[Range]) -> tuple[tuple[int, ColumnId], ...]:
    """(position, id) of the table's columns that conditions cannot mean, as no word in them is their name."""
    lexed = binding.lexed
    tokens = [index for condition in conditions for index in range(*condition)]
    words = {index: identifier(lexed.text(index)).lower() for index in tokens}
    whole = any(word == table.alias.lower() and lexed.text(index + 1) != "." for index, word in words.items())
    found = frozenset(words.values())
    if whole or "columns" in found:
        return ()
    return tuple((at, column.id) for at, column in enumerate(table.columns) if column.name.lower() not in found)


def _fragment(
    binding: Binding,
    parts: Sequence[Any],
    conditions: Sequence[Range],
    columns: tuple[Column, ...],
    inputs: tuple[LogicalPlan, ...],
    label: str,
    context: CteContext,
) -> Fragment:
    body = list(parts)
    for position, condition in enumerate(conditions):
        body.append((" WHERE (" if position == 0 else " AND (") + binding.lexed.slice(*condition) + ")")
    prefix = binding.cte_prefix(" ".join(part for part in body if isinstance(part, str)), context)
    return Fragment(merged([prefix, *body]), columns, inputs, label)


def bind_relations(binding: Binding, clause: Range | None, context: CteContext, bind_query: BindQuery) -> Relations:
    """Sub-queries with LLM calls and names of such CTEs in the clause, bound and cut out of the text."""
    lexed, text = binding.lexed, FragmentText()
    found: list[tuple[Span, BoundQuery]] = []
    if clause is None:
        return Relations(text)
    index = clause[0]
    while index < clause[1]:
        if lexed.text(index) == "(" and starts_query(lexed, index + 1):
            closing = lexed.partner[index]
            if binding.tainted(index, closing + 1, context):
                query = bind_alone(binding, (index, closing + 1), context, bind_query)
                span = lexed.span(index, closing + 1)
                text.cut(span, text.query(query))
                found.append((span, _renamed(binding, query)))
            index = closing + 1
            continue
        index += 1
    for index, name, given_alias in binding.bound_tables(*clause, context):
        span = lexed.span(index, index + 1)
        if any(outer.start <= span.start < outer.end for outer, _ in found):
            continue
        cte = context.bound[name]
        columns = tuple(binding.new_column(column.name, column.type) for column in cte.query.columns)
        scan = CteScan(cte.query.plan, cte.number, cte.name, columns)
        query = BoundQuery(scan, columns)
        text.cut(span, text.query(query), "" if given_alias else alias(cte.name))
        found.append((span, query))

    def holds_call(part: Range) -> bool:
        span = lexed.span(*part)
        nested = any(span.start <= inner.start < span.end for inner, _ in found)
        return bool(binding.calls_in(*part)) and not nested

    moved = inner_join_conditions(lexed, clause, holds_call)
    for part in moved:
        text.cut(lexed.span(*part), "TRUE")
    return Relations(text, tuple(found), tuple(moved))


def _renamed(binding: Binding, query: BoundQuery) -> BoundQuery:
    """The query with its names made unique, as a sub-query in FROM shows them."""
    names = [name for name, _ in visible(query.columns)]
    columns = tuple(
        column if column.name == name else replace(column, name=name)
        for column, name in zip(query.columns, names, strict=True)
    )
    return BoundQuery(query.plan, columns)


def _refuse_calls(binding: Binding, clause: Range, bound: Sequence[Span]) -> None:
    lexed = binding.lexed
    at, inside = clause[0], sorted((lexed.at(span.start), lexed.at(span.end)) for span in bound)
    for start, end in (*inside, (clause[1], clause[1])):
        for call in binding.calls_in(at, start):
            raise NotSupportedError(
                "an LLM call in an outer join's condition or a table function is not available in this version",
                span=call.origin(),
                remedy="Join first, and put the call into WHERE.",
            )
        at = max(at, end)


def _items(node: Any) -> list[tuple[str, bool]]:
    """Name and whether it was given (or is a table's) for each FROM item of a SELECT node."""
    if node is None or node.args.get("from_") is None:
        return []
    items = [node.args["from_"].this, *(join.this for join in node.args.get("joins") or ())]
    laterals = node.args.get("laterals") or ()
    return [(item.alias_or_name, bool(item.alias)) for item in (*items, *laterals)]


def is_whole(binding: Binding, clause: Range, span: Span) -> bool:
    """Whether a relation is all there is in the clause, but for an alias without a column list."""
    lexed = binding.lexed
    first, end = lexed.at(span.start), lexed.at(span.end)
    rest = [lexed.text(index) for index in range(end, clause[1])]
    if first != clause[0] or "(" in rest or len(rest) > 2:
        return False
    return len(rest) < 2 or rest[0].upper() == "AS"


def _chars(binding: Binding, block: Range) -> tuple[int, int]:
    span = binding.lexed.span(*block)
    return span.start, span.end


def _scope(
    binding: Binding, clause: Range, items: Sequence[tuple[str, bool]], context: CteContext
) -> tuple[Scope, str]:
    """The tables of the clause with fresh columns, and the SELECT list that yields exactly these."""
    merged_names = _merged(binding, clause)
    names = [name for name, _ in items]
    distinct = all(names) and len({name.lower() for name in names}) == len(names)
    single = len(items) <= 1 and not merged_names
    asked = [] if single or not distinct else [*(f"{quote(name)}.*" for name in names), *map(quote, merged_names)]
    known = known_parts(binding, clause, names, merged_names, context) if asked else None
    everything, *parts = _describe_all(binding, ["*", *(asked if known is None else ())], clause, context)
    parts = parts if known is None else known
    assert everything is not None, "DuckDB has bound the statement with this clause"
    if single:
        name = names[0] if items else _only_name(binding, clause)
        columns = tuple(binding.new_column(column, kind) for column, kind in everything)
        return Scope((Table(name or "__halo_table", columns),)), "*"
    if not distinct:
        return _flat(binding, everything)
    tables: list[Table] = []
    for name, columns_of in zip(names, parts, strict=False):
        if columns_of is not None:  # the right side of a semi or anti join is not visible
            columns = tuple(binding.new_column(column, kind) for column, kind in columns_of)
            tables.append(Table(name, columns))
    shared = Counter(column.name.lower() for table in tables for column in table.columns)
    kinds = dict(zip(merged_names, parts[len(names) :], strict=True))
    if any(binding.lexed.word(index) == "NATURAL" for index in binding.lexed.level(*clause)):
        merged_names += [name for name, count in shared.items() if count > 1 and name not in merged_names]
    merged_twice = sum(shared[name.lower()] - 1 for name in merged_names if shared[name.lower()] > 1)
    if shared.total() - merged_twice != len(everything):
        return _flat(binding, everything)  # sqlglot saw other tables than DuckDB
    merged_columns: dict[str, Column] = {}
    for name in merged_names:
        [(_, kind)] = kinds.get(name) or _describe(binding, quote(name), clause, context)
        merged_columns[name.lower()] = binding.new_column(name, kind)
    shown = [f"{quote(table.alias)}.*" for table in tables] + [quote(name) for name in merged_names]
    return Scope(tuple(tables), merged_columns), ", ".join(shown)


def _only_name(binding: Binding, clause: Range) -> str:
    """The name of a lone table, when sqlglot does not tell: ``t``, ``t x``, ``t AS x``."""
    if clause[1] - clause[0] > 3:
        return ""
    words = [binding.lexed.text(index) for index in range(*clause)]
    return identifier(words[-1]) if all(word.isidentifier() or word.startswith('"') for word in words) else ""


def _flat(binding: Binding, everything: Sequence[tuple[str, SqlType]]) -> tuple[Scope, str]:
    """Items without names of their own: one table of all columns (qualified names then stay as text)."""
    columns = tuple(binding.new_column(column, kind) for column, kind in everything)
    return Scope((Table("__halo_table", columns),)), "*"


def _describe(binding: Binding, what: str, clause: Range, context: CteContext) -> Columns:
    pieces = [plain(f"SELECT {what} FROM "), *binding.shadow(*clause)]
    shadow: list[Piece] = pieces
    return binding.describe(shadow, context)


def _describe_all(binding: Binding, wanted: Sequence[str], clause: Range, context: CteContext) -> list[Columns | None]:
    """The columns of each SELECT item over the clause, by one question; one by one, None for what is refused, when
    DuckDB refuses that. The first item must be there."""
    first, *rest = wanted
    if not rest:
        return [_describe(binding, first, clause, context)]
    try:
        found = _describe(binding, f", NULL AS {quote(PART)}, ".join(wanted), clause, context)
    except InterruptedQueryError:
        raise
    except Error:
        found = []
    cuts = [place for place, (name, _) in enumerate(found) if name == PART]
    if len(cuts) == len(rest):
        return [found[start + 1 : end] for start, end in pairwise([-1, *cuts, len(found)])]
    parts: list[Columns | None] = [_describe(binding, first, clause, context)]
    for what in rest:
        try:
            parts.append(_describe(binding, what, clause, context))
        except InterruptedQueryError:
            raise
        except Error:
            parts.append(None)
    return parts


def _merged(binding: Binding, clause: Range) -> list[str]:
    """Names of the columns that JOIN … USING merges."""
    lexed, names = binding.lexed, []
    for index in lexed.level(*clause):
        if lexed.word(index) == "USING" and lexed.text(index + 1) == "(":
            for first, _ in lexed.split(index + 2, lexed.partner[index + 1]):
                name = lexed.text(first)
                names.append(name[1:-1].replace('""', '"') if name.startswith('"') else name)
    unique: dict[str, str] = {}
    for name in names:
        unique.setdefault(name.lower(), name)
    return list(unique.values())


def _label(binding: Binding, clause: Range) -> str:
    text = " ".join(binding.lexed.slice(*clause).split())
    return "Scan " + (text if len(text) <= 60 else text[:59] + "…")
