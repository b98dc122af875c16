"""Questions about logical nodes that several rules ask."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Any

from halo_sql.ir.expr import Column, ColumnId, ColumnRef, SqlExpr, column_expr, substitute
from halo_sql.ir.logical import (
    CallText,
    CteScan,
    Demand,
    Distinct,
    Filter,
    Fragment,
    InputRef,
    Join,
    Limit,
    LlmFilter,
    LlmMap,
    LlmTopK,
    LogicalPlan,
    Project,
    Sink,
    Sort,
)
from halo_sql.ir.prompt import LlmCall
from halo_sql.ir.types import SqlType
from halo_sql.ir.walk import children, output_columns

RELATIONAL = (Fragment, Filter, Project, Join, Sort, Limit, Distinct)

#: Pieces of text around column references that cannot raise an error at run time, whatever the value.
_CANNOT_FAIL = re.compile(
    r"(?:\0|'(?:[^']|'')*+'|\s|\(|\)|,|\|\||::\s*VARCHAR\b(?!\s*\[)|\bCAST\(|\bAS\s+VARCHAR\b(?!\s*\[)"
    r"|\bIS\s+(?:NOT\s+)?NULL\b|\b(?:coalesce|concat|upper|lower|trim|to_json)\()*+",
    re.IGNORECASE,
)
#: ``CAST((column) AS TYPE)`` before the column and behind it.
_CAST_OF = re.compile(r"\bCAST\(\(\s*$", re.IGNORECASE)
_OWN_CAST = re.compile(r"\s*\)\s*AS\s+([^()\[\]]*?)\)", re.IGNORECASE)
_STRING = re.compile(r"\s*(?:CAST\(\s*)?('(?:[^']|'')*+')(?:\s*AS\s+VARCHAR\s*\)|\s*::\s*VARCHAR)?\s*", re.IGNORECASE)
_WINDOW = re.compile(r"\bover\b", re.IGNORECASE)


def walk_once(plan: Any) -> Iterator[Any]:
    """Every node of a plan, parents before their inputs where first met; a shared sub-tree once."""
    seen: set[int] = set()
    stack = [plan]
    while stack:
        node = stack.pop()
        if id(node) not in seen:
            seen.add(id(node))
            yield node
            stack.extend(reversed(children(node)))


def relational_trees(plan: Any) -> list[Any]:
    """The largest sub-plans that are relational throughout, those of more than one node or without inputs."""
    relational: dict[int, bool] = {}
    order = list(walk_once(plan))
    for node in reversed(order):
        own = isinstance(node, RELATIONAL)
        relational[id(node)] = own and all(relational.get(id(child), False) for child in children(node))
    found: dict[int, Any] = {}
    for node in order:
        if not relational[id(node)]:
            found.update((id(child), child) for child in children(node) if relational[id(child)])
    return list(found.values())


def calls_of(node: Any) -> tuple[LlmCall, ...]:
    """The LLM calls a node makes itself, over columns of its input."""
    if isinstance(node, LlmMap):
        return node.calls
    return (node.call,) if isinstance(node, LlmFilter | LlmTopK) else ()


def is_llm(node: Any) -> bool:
    """Whether the node makes LLM calls itself and passes its rows on as they come."""
    return isinstance(node, LlmMap | LlmFilter)


def is_over_llm(node: Any) -> bool:
    """Whether the node is such a one, or SQL filters over it."""
    while isinstance(node, Filter):
        node = node.input
    return is_llm(node)


def is_volatile(node: LlmMap | LlmFilter) -> bool:
    """Whether asking twice may give two answers (temperature above 0, no seed)."""
    return not all(call.deterministic for call in calls_of(node))


def outputs(node: LlmMap) -> frozenset[ColumnId]:
    """The columns the map adds."""
    return frozenset(call.output for call in node.calls)


def calls_columns(calls: Iterable[LlmCall]) -> frozenset[ColumnId]:
    """Columns that calls read."""
    read: set[ColumnId] = set()
    for call in calls:
        read |= call.columns()
    return frozenset(read)


def columns_of(exprs: Iterable[SqlExpr]) -> frozenset[ColumnId]:
    """Every column that one of the expressions may read."""
    found: set[ColumnId] = set()
    for expr in exprs:
        if expr.scope:
            found |= expr.columns()
        for part in expr.parts:
            if isinstance(part, ColumnRef):
                found.add(part.id)
    return frozenset(found)


def column_ids(node: LogicalPlan) -> frozenset[ColumnId]:
    """Ids of the node's output columns."""
    return frozenset(column.id for column in output_columns(node))


def reads(node: Any, index: int = 0) -> frozenset[ColumnId]:
    """The columns that a node itself reads of its ``index``-th input (not those it only passes on)."""
    if isinstance(node, Filter):
        return node.predicate.columns()
    if isinstance(node, Project):
        return columns_of(expr for _, expr in node.exprs)
    if isinstance(node, Sort):
        return columns_of(key.expr for key in node.keys)
    if isinstance(node, LlmMap | LlmFilter | LlmTopK):
        return calls_columns(calls_of(node))
    if isinstance(node, Fragment):
        refs = [part for part in node.parts if not isinstance(part, str) and part.index == index]
        return frozenset(column for ref in refs for _, column in ref.names)
    if isinstance(node, Demand):
        return frozenset(column for ref in demand_refs(node, index) for _, column in ref.names)
    if isinstance(node, Sink):
        return frozenset(column for _, column in node.names)
    if isinstance(node, CteScan | Distinct):
        return column_ids(node.input)
    if isinstance(node, Join):
        return _of_side(node, index, columns_of(node.on))
    assert isinstance(node, Limit), type(node).__name__
    return frozenset()


def _of_side(join: Join, index: int, columns: frozenset[ColumnId]) -> frozenset[ColumnId]:
    """Those of the columns that belong to one input; what belongs to none counts as the first's."""
    if index:
        return columns & column_ids(join.inputs[index])
    return columns.difference(*(column_ids(other) for other in join.inputs[1:]))


def reads_of_inputs(fragment: Fragment) -> list[frozenset[ColumnId]]:
    """``reads`` for each input of a fragment, in one pass over its parts."""
    found: list[set[ColumnId]] = [set() for _ in fragment.inputs]
    for part in fragment.parts:
        if not isinstance(part, str):
            found[part.index].update(column for _, column in part.names)
    return [frozenset(columns) for columns in found]


def produces_own_columns(node: Any) -> bool:
    """Whether nothing of the input's columns passes through by id."""
    return isinstance(node, Project | Fragment | CteScan | Demand | Sink)


def demand_refs(node: Demand, index: int) -> list[InputRef]:
    """The places of a demand's texts, arguments of calls included, where its ``index``-th input is read."""
    found: list[InputRef] = []
    stack: list[Any] = [*node.parts, *node.write]
    while stack:
        part = stack.pop()
        if isinstance(part, InputRef) and part.index == index:
            found.append(part)
        elif isinstance(part, CallText):
            stack += [piece for argument in part.arguments for piece in argument]
    return found


def picked(project: Project) -> dict[ColumnId, ColumnId] | None:
    """Column of the projection -> the column below that it is; None when something is computed."""
    found: dict[ColumnId, ColumnId] = {}
    for column, expr in project.exprs:
        source = expr.as_column()
        if source is None:
            return None
        found[column.id] = source
    return found


def is_pick(project: Project) -> bool:
    """Whether the projection only picks, reorders and renames columns."""
    return all(expr.as_column() is not None for _, expr in project.exprs)


def leaves_out(project: Project) -> bool:
    """Whether the projection passes columns on under their own ids, and computes nothing."""
    return all(expr.as_column() == column.id for column, expr in project.exprs)


def passes_goal(node: Any) -> bool:
    """Whether the node reads no more of its rows than those above it ask for: a LIMIT above it stops it."""
    if isinstance(node, Filter):
        return is_row_wise(node.predicate)
    if isinstance(node, Project):
        return all(is_row_wise(expr) for _, expr in node.exprs)
    return isinstance(node, LlmMap | LlmFilter | Limit) or (isinstance(node, Fragment) and node.row_wise)


def is_row_wise(expr: SqlExpr) -> bool:
    """Whether the expression looks at one row only, gives one value and needs no names rebuilt."""
    return expr.row_wise and not expr.scope


def sees_one_row(expr: SqlExpr) -> bool:
    """Whether a predicate's value cannot depend on which other rows there are (no window)."""
    return expr.row_wise or not any(isinstance(part, str) and _WINDOW.search(part) for part in expr.parts)


def cannot_fail(expr: SqlExpr, types: Mapping[ColumnId, SqlType] | None = None) -> bool:
    """Whether evaluating it on more rows than the statement says can raise no error and changes nothing.

    True for references, casts to VARCHAR or (where ``types`` tells it) a column's own type, string literals and a few
    functions over these.
    """
    if expr.volatile or expr.scope:
        return False
    pieces = [part if isinstance(part, str) else "\0" for part in expr.parts]
    for place, part in enumerate(expr.parts[:-1]):
        known = types.get(part.id) if types and isinstance(part, ColumnRef) and place else None
        behind = None if known is None else _OWN_CAST.match(pieces[place + 1])
        if known is None or behind is None or not _CAST_OF.search(pieces[place - 1]):
            continue
        if behind[1].strip().upper() == known.text.upper():  # the value as it is
            pieces[place + 1] = ")) " + pieces[place + 1][behind.end() :]
    return _CANNOT_FAIL.fullmatch("".join(pieces)) is not None


def string_constant(expr: SqlExpr) -> str | None:
    """The text of an expression that is nothing but a string literal."""
    if len(expr.parts) != 1 or not isinstance(expr.parts[0], str) or expr.scope:
        return None
    found = _STRING.fullmatch(expr.parts[0])
    return None if found is None else found[1][1:-1].replace("''", "'")


def is_cheap(expr: SqlExpr) -> bool:
    """Whether repeating the expression is no loss: a reference or a cast of one."""
    return sum(isinstance(part, ColumnRef) for part in expr.parts) <= 1 and cannot_fail(expr)


def pick(columns: Iterable[Column]) -> tuple[tuple[Column, SqlExpr], ...]:
    """Projection items that pass columns on as they are."""
    return tuple((column, column_expr(column)) for column in columns)


def through_project(expr: SqlExpr, project: Project) -> SqlExpr | None:
    """``expr`` over the projection's output as an expression over its input; None when that is not allowed.

    Refused: names to rebuild on either side, and volatile values (they would be computed again).
    """
    if not expr.columns():
        return expr
    values: dict[ColumnId, SqlExpr] = {column.id: value for column, value in project.exprs}
    read = [values[column] for column in expr.columns()]
    if expr.scope:
        renames = {column: value.as_column() for column, value in values.items()}
        if any(value.as_column() is None for value in read):
            return None
        return expr.remap({column: inner for column, inner in renames.items() if inner is not None})
    if any(value.volatile or (value.scope and value.as_column() is None) for value in read):
        return None
    return substitute(expr, values)


def remap_call(call: LlmCall, columns: Mapping[ColumnId, ColumnId]) -> LlmCall:
    """The same call over renamed input columns."""
    guard = None if call.guard is None else columns.get(call.guard, call.guard)
    return replace(call, prompt=call.prompt.remap(columns), guard=guard)


def label(node: Any) -> str:
    """A short text for one node, as shown by EXPLAIN (RULES, MEMO)."""
    if isinstance(node, Fragment):
        return node.label
    if isinstance(node, Demand):
        return f"Demand {', '.join(ask.call.label or ask.call.kind for ask in node.asks)}"
    if isinstance(node, CteScan):
        return f"CteScan {node.name}"
    if isinstance(node, Project):
        return "Project " + ", ".join(str(column) for column, _ in node.exprs)
    if isinstance(node, Filter):
        return f"Filter {node.predicate.text(lambda column: f'#{column}')}"
    if isinstance(node, Join):
        conditions = (condition.text(lambda column: f"#{column}") for condition in node.on)
        return f"Join {node.kind} {' AND '.join(conditions)}".rstrip()
    if isinstance(node, Sort):
        keys = (f"{key.expr.text(lambda column: f'#{column}')} {key.modifiers}".rstrip() for key in node.keys)
        return "Sort " + ", ".join(keys)
    if isinstance(node, Limit):
        return f"Limit {node.count}" + (f" offset {node.offset}" if node.offset else "")
    if isinstance(node, LlmTopK):
        return f"LlmTopK {node.count} {node.call.label or node.call.kind}"
    if isinstance(node, LlmMap | LlmFilter):
        names = ", ".join(f"{call.label or call.kind}#{call.output}" for call in calls_of(node))
        return f"{type(node).__name__}{' distinct' if node.distinct else ''} {names}"
    return type(node).__name__
