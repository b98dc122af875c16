"""Calls of tools and agents at the end of a FROM clause: columns of the rows before them, no query of their own.

``FROM t, LATERAL AGENT(g, task => t.x) a`` is an AgentApply over t with the members of its value as the columns of a:
rows stream through it. A tool's rows are unnested behind it. Other places in FROM are left to ``bind_demand``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from halo_sql.errors import NotSupportedError
from halo_sql.grammar.bind_from import BoundFrom
from halo_sql.grammar.binding import Binding
from halo_sql.grammar.call_site import CallSite
from halo_sql.grammar.expressions import resolved, typed
from halo_sql.grammar.hoist import Hoister
from halo_sql.grammar.names import Scope, Table
from halo_sql.grammar.operators_table import ROW_OPERATORS
from halo_sql.grammar.skeleton import Range, identifier
from halo_sql.grammar.texts import by_id, hidden
from halo_sql.ir.expr import Column, ColumnId, ColumnRef, SqlExpr, column_expr, literal, quote
from halo_sql.ir.logical import Filter, Fragment, InputRef, LogicalPlan, Project
from halo_sql.ir.walk import output_columns

_BESIDE_JOIN = frozenset({"INNER", "CROSS", "LEFT", "OUTER"})


@dataclass(frozen=True, slots=True)
class Lateral:
    """A call at the end of a FROM clause.

    start  the comma or the first word of the join before it
    outer  LEFT JOIN: rows for which a tool gives nothing stay
    """

    start: int
    site: CallSite
    alias: str
    outer: bool


def trailing_calls(binding: Binding, clause: Range | None) -> list[Lateral]:
    """The calls that end a FROM clause, in order; not the clause's first item."""
    found: list[Lateral] = []
    if clause is None or not any(call.row_form or call.returns.kind == "list" for call in binding.calls_in(*clause)):
        return found
    end = clause[1]
    for separator, first in reversed(_separators(binding, clause)):
        lateral = _read(binding, separator, first, end)
        if lateral is None:
            break
        found.insert(0, lateral)
        end = separator
    return found


def _separators(binding: Binding, clause: Range) -> list[tuple[int, int]]:
    """(first token of what separates two items, first token of the item behind it), in order."""
    lexed, found = binding.lexed, list[tuple[int, int]]()
    for index in lexed.level(*clause):
        if lexed.text(index) == ",":
            found.append((index, index + 1))
        elif lexed.word(index) == "JOIN" and not lexed.column_label(index):
            first = index
            while lexed.word(first - 1) in _BESIDE_JOIN:
                first -= 1
            found.append((first, index + 1))
    return found


def _read(binding: Binding, separator: int, first: int, end: int) -> Lateral | None:
    """``[LATERAL] (SELECT unnest(<call>, max_depth := 2)) [AS] alias [ON TRUE]``; None for anything else."""
    lexed = binding.lexed
    words = [lexed.word(index) for index in range(separator, first)]
    at = first + 1 if lexed.word(first) == "LATERAL" else first
    sites = binding.calls_in(at, end)
    if lexed.text(at) != "(" or len(sites) != 1 or lexed.word(sites[0].first) not in ROW_OPERATORS:
        return None
    closing, site = lexed.partner[at], sites[0]
    listed = lexed.text(at + 4) == "["
    if [lexed.word(at + 1), lexed.word(at + 2)] != ["SELECT", "UNNEST"] or site.first != at + 4 + listed:
        return None
    rest = closing + 1
    rest += lexed.word(rest) == "AS"
    if rest >= end or lexed.tokens[rest].kind != "identifier":
        return None
    alias, behind = identifier(lexed.text(rest)), [lexed.word(index) for index in range(rest + 1, end)]
    joined = "JOIN" in words and "CROSS" not in words
    if behind != (["ON", "TRUE"] if joined else []):
        return None
    return Lateral(separator, site, alias, "LEFT" in words)


def with_laterals(
    binding: Binding, bound: BoundFrom, laterals: Sequence[Lateral], conditions: Sequence[Range]
) -> BoundFrom:
    """The clause with the columns of the calls behind those of its tables.

    Of the ``conditions`` of WHERE, those that need no call are asked before calls of tools, too: for rows that they
    refuse nothing is called (rules move them past agents, but not past what unnests).
    """
    scope, plan = bound.scope, bound.plan_with(())
    for condition in conditions if any(lateral.site.kind == "tool" for lateral in laterals) else ():
        expr = None if binding.calls_in(*condition) else _before(binding, scope, condition)
        if expr is not None:
            plan = Filter(plan, expr)
    for lateral in laterals:
        site = lateral.site
        hoister = Hoister(binding, plan, scope, {})
        hoister.lift([site], lambda call: (call.first, call.end))
        value, plan = hoister.output_of(site), hoister.plan
        add = _members if site.kind == "agent" else _unnested
        scope, plan = add(binding, scope, plan, value, lateral)

    def plan_with(conditions: Sequence[Range]) -> LogicalPlan:
        if conditions:
            raise NotSupportedError(
                "a condition beside a call in FROM cannot be evaluated row by row here",
                span=binding.lexed.span(*conditions[0]),
            )
        return plan

    return BoundFrom(scope, plan_with)


def _before(binding: Binding, scope: Scope, condition: Range) -> SqlExpr | None:
    """A condition over the tables in front of the calls; None for one that reads what they give."""
    source, duck = binding.source, binding.duck
    expr = resolved(source, *condition, scope, (), lambda call: ColumnId(0), {}, duck)
    if expr is None or expr.volatile or expr.scope or not expr.columns():
        return None
    checked = typed(duck, [expr], scope.columns())
    return checked[0] if checked else None


def _members(
    binding: Binding, scope: Scope, plan: LogicalPlan, value: ColumnId, lateral: Lateral
) -> tuple[Scope, LogicalPlan]:
    """The members of a struct as columns."""
    own = tuple(binding.new_column(name, kind) for name, kind in lateral.site.returns.fields)
    kept = [(column, column_expr(column)) for column in output_columns(plan) if column.id != value]
    taken = [(column, _member(value, column)) for column in own]
    return _beside(scope, lateral.alias, own), Project(plan, (*kept, *taken))


def _member(value: ColumnId, column: Column) -> SqlExpr:
    parts = ("struct_extract(", ColumnRef(value), f", {literal(column.name)})")
    return SqlExpr(parts, column.type, row_wise=True)


def _unnested(
    binding: Binding, scope: Scope, plan: LogicalPlan, value: ColumnId, lateral: Lateral
) -> tuple[Scope, LogicalPlan]:
    """The rows of a list beside the row they belong to."""
    members = lateral.site.returns.fields[0][1].fields
    own = tuple(binding.new_column(name, kind) for name, kind in members)
    passed = scope.columns()
    renamed = {column.id: binding.new_column(column.name, column.type) for column in passed}
    names = ", ".join(quote(hidden(column.id)) for column in passed)
    ref = InputRef(0, by_id([*passed, Column(value, "value", lateral.site.returns)]))
    rows = quote(hidden(value))
    if lateral.outer:
        rows = f"CASE WHEN len({rows}) > 0 THEN {rows} ELSE [NULL] END"
    head = f"SELECT {names}{', ' if names else ''}unnest({rows}, max_depth := 2) FROM "
    columns, label = (*renamed.values(), *own), f"Unnest {lateral.alias}"
    fragment = Fragment((head, ref), columns, (plan,), label, row_wise=True, unnested=value)
    tables = tuple(
        replace(table, columns=tuple(renamed[column.id] for column in table.columns)) for table in scope.tables
    )
    merged = {name: renamed[column.id] for name, column in scope.merged.items()}
    return _beside(Scope(tables, merged), lateral.alias, own), fragment


def _beside(scope: Scope, alias: str, columns: tuple[Column, ...]) -> Scope:
    return Scope((*scope.tables, Table(alias, columns)), scope.merged)
