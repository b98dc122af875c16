"""Expressions of the user's text as ``SqlExpr``: column references by id, calls by their output column."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cache
from typing import Any, Protocol

from halo_sql.duck import Duck
from halo_sql.errors import Error, NotSupportedError
from halo_sql.grammar.called import Placed, contains_query, functions_in
from halo_sql.grammar.names import Scope
from halo_sql.grammar.skeleton import starts_query
from halo_sql.grammar.source import Source
from halo_sql.grammar.user_functions import NAMING, UNNEST, are_row_wise, are_volatile
from halo_sql.ir.expr import Column, ColumnId, ColumnRef, SqlExpr, column_expr, join_text, quote
from halo_sql.ir.logical import Project
from halo_sql.ir.physical import Input, batch_name
from halo_sql.ir.sql import render
from halo_sql.ir.types import BOOLEAN, VARCHAR


class Opaque(Placed, Protocol):
    """A part of a text that goes into an expression as it is."""

    @property
    def text(self) -> str:
        """What it reads there."""
        ...


OutputOf = Callable[[Any], ColumnId]
Aliases = Mapping[str, SqlExpr]


def own_tokens(source: Source, first: int, end: int) -> Iterator[int]:
    """The tokens of a range that are not inside a sub-query."""
    lexed, index = source.lexed, first
    tokens = lexed.tokens
    while index < end:
        yield index
        if tokens[index].text == "(" and starts_query(lexed, index + 1):
            index = lexed.partner[index]
        index += 1


def aggregates(duck: Duck) -> frozenset[str]:
    """Lower-case names of aggregate functions, ours among them."""
    return _with_ours(duck.aggregate_functions())


@cache
def _with_ours(names: frozenset[str]) -> frozenset[str]:
    return names | {"llm_reduce"}


def grouping(source: Source, first: int, end: int, duck: Duck) -> str:
    """'window', 'aggregate' or 'unnest' when a range holds such a function of its own SELECT (not of a sub-query)."""
    lexed, known = source.lexed, aggregates(duck)
    tokens, words = lexed.tokens, lexed.words
    found = ""
    for index in own_tokens(source, first, end):
        if words[index] == "OVER" and lexed.text(index - 1) == ")" and index > first:
            return "window"
        if index + 1 >= end or tokens[index + 1].text != "(" or lexed.text(index - 1) == ".":
            continue
        if lexed.text(index).strip('"').lower() in known:
            found = "aggregate"
        elif not found and lexed.word(index).lower() in UNNEST:
            found = "unnest"
    return found


#: Words that are functions without brackets, unless a column or an alias has the name.
VALUE_FUNCTIONS = frozenset(
    [
        *("current_catalog", "current_date", "current_role", "current_schema", "current_time", "current_timestamp"),
        *("current_user", "localtime", "localtimestamp", "session_user", "user"),
    ]
)


def _refuse_hidden_functions(source: Source, first: int, end: int, scope: Scope, aliases: Aliases) -> None:
    """NotSupportedError when a name in reach is spelled like a function: only DuckDB knows which of them is meant."""
    lexed = source.lexed
    for index, upper in enumerate(lexed.words[first:end], first):
        word = upper.lower()
        if word not in VALUE_FUNCTIONS or lexed.text(index + 1) == "(" or lexed.text(index - 1) == ".":
            continue
        if word in aliases or any(column.name.lower() == word for column in scope.columns()):
            raise NotSupportedError(f'"{word}" is a function and a column here', remedy=f'Write "{word}" in quotes.')


def resolved(
    source: Source,
    first: int,
    end: int,
    scope: Scope,
    calls: Sequence[Placed],
    output_of: OutputOf,
    aliases: Aliases,
    duck: Duck,
    queries: Sequence[Opaque] = (),
) -> SqlExpr | None:
    """A token range with every reference replaced by a column id; None when one cannot be (type is VARCHAR until
    ``typed`` has asked DuckDB). ``queries`` are the sub-queries in it that need nothing replaced."""
    outside = _outside(queries, first, end)
    if any(contains_query(source, *part) or _has_position(source, *part) for part in outside):
        return None
    span = source.lexed.span(first, end)
    names = source.syntax.columns_in(span.start, span.end)
    if names is None:
        return None
    _refuse_hidden_functions(source, first, end, scope, aliases)
    inside = [call for call in calls if first <= call.first and call.end <= end]
    volatile = row_wise_breaks = False
    cuts: list[tuple[int, int, Sequence[str | ColumnRef]]] = [
        (call.span.start, call.span.end, (ColumnRef(output_of(call)),)) for call in inside
    ]
    cuts += [(query.span.start, query.span.end, (query.text,)) for query in queries]
    for parts in names:
        if any(left <= parts[0].start < right for left, right, _ in cuts[: len(inside) + len(queries)]):
            continue
        found = scope.resolve(parts)
        if found is not None:
            column, used = found
            cuts.append((parts[0].start, parts[used - 1].end, (ColumnRef(column.id),)))
            continue
        alias = aliases.get(parts[0].name.lower())
        row = scope.row(parts[0].name) if alias is None and len(parts) == 1 else ()
        if row:
            fields = [piece for column in row for piece in (f", {quote(column.name)} := ", ColumnRef(column.id))]
            cuts.append((parts[0].start, parts[0].end, ("struct_pack(", str(fields[0])[2:], *fields[1:], ")")))
            continue
        if alias is None:
            return None
        volatile, row_wise_breaks = volatile or alias.volatile, row_wise_breaks or not alias.row_wise
        cuts.append((parts[0].start, parts[0].end, ("(", *alias.parts, ")")))
    functions = functions_in(source, first, end, inside)
    if functions & NAMING:
        return None
    return SqlExpr(
        _cut(source.sql, span.start, span.end, cuts),
        VARCHAR,
        (),
        volatile or are_volatile(functions, duck),
        not row_wise_breaks and not queries and are_row_wise(functions, duck),
    )


def _outside(queries: Sequence[Opaque], first: int, end: int) -> list[tuple[int, int]]:
    """The parts of a token range between some sub-queries, in order of position."""
    starts = [first, *(query.end for query in queries)]
    return list(zip(starts, [*(query.first for query in queries), end], strict=True))


def _has_position(source: Source, first: int, end: int) -> bool:
    return any(token.text == "#" for token in source.lexed.tokens[first:end])


def verbatim(
    source: Source, first: int, end: int, scope: Scope, calls: Sequence[Placed], output_of: OutputOf
) -> SqlExpr:
    """A token range as written, over the scope's tables rebuilt under their names."""
    span = source.lexed.span(first, end)
    inside = [call for call in calls if first <= call.first and call.end <= end]
    cuts = [(call.span.start, call.span.end, (ColumnRef(output_of(call)),)) for call in inside]
    return SqlExpr(_cut(source.sql, span.start, span.end, cuts), VARCHAR, scope.as_ir())


def _cut(
    sql: str, start: int, end: int, cuts: Sequence[tuple[int, int, Sequence[str | ColumnRef]]]
) -> tuple[str | ColumnRef, ...]:
    parts: list[str | ColumnRef] = []
    at = start
    for left, right, new in sorted(cuts, key=lambda cut: cut[0]):
        parts.append(sql[at:left])
        parts += new
        at = right
    parts.append(sql[at:end])
    return join_text(parts)


def _is_text_of_column(expr: SqlExpr) -> bool:
    """``CAST(column AS VARCHAR)``: what DuckDB says of it is known."""
    return len(expr.parts) == 3 and expr.parts[0] == "CAST(" and expr.parts[2] == " AS VARCHAR)" and not expr.scope


#: A reference compared with a constant: what stands in front of it and behind it.
_COMPARED = re.compile(r"\s*(?:=|<>|!=|<=?|>=?)\s*-?(?:\d+(?:\.\d+)?|'(?:[^']|'')*+')\s*")


def _is_comparison(expr: SqlExpr) -> bool:
    """``column < constant``: the user's own, DuckDB has bound it with the statement, and it is a BOOLEAN."""
    if expr.scope or len(expr.parts) not in (2, 3) or not isinstance(expr.parts[-1], str):
        return False
    front, behind = (expr.parts[0], expr.parts[-1]) if len(expr.parts) == 3 else ("", expr.parts[-1])
    reference = expr.parts[-2]
    if not isinstance(front, str) or isinstance(reference, str):
        return False
    opened = front.strip()
    if opened == "(":
        opened, behind = "", behind.rstrip().removesuffix(")") if behind.rstrip().endswith(")") else "("
    return not opened and _COMPARED.fullmatch(behind) is not None


def typed(duck: Duck, exprs: Sequence[SqlExpr], columns: Sequence[Column]) -> list[SqlExpr] | None:
    """The expressions with their types, as DuckDB binds them over ``columns``; None when it does not."""
    if not exprs:
        return []
    known = {column.id: column.type for column in columns}
    result: list[SqlExpr | None] = [None] * len(exprs)
    asked: list[int] = []
    for index, expr in enumerate(exprs):
        single = expr.as_column()
        if single is not None and single in known:
            kind = known[single]
            same = expr.row_wise and (expr.type is kind or expr.type == kind)
            result[index] = expr if same else replace(expr, type=kind, row_wise=True)
        elif _is_text_of_column(expr) and expr.columns() <= known.keys():
            result[index] = replace(expr, type=VARCHAR)
        elif _is_comparison(expr) and expr.columns() <= known.keys():
            result[index] = replace(expr, type=BOOLEAN)
        else:
            asked.append(index)
    groups: dict[object, list[int]] = {}
    for index in asked:
        groups.setdefault(exprs[index].scope, []).append(index)
    for members in groups.values():
        read = frozenset().union(*(exprs[index].columns() for index in members))
        inputs = tuple(column for column in columns if column.id in read) or tuple(columns[:1])
        outputs = tuple(
            (Column(ColumnId(-1 - position), "", VARCHAR), exprs[index]) for position, index in enumerate(members)
        )
        empty = ", ".join(f"CAST(NULL AS {column.type.text}) AS {batch_name(column.id)}" for column in inputs)
        # a bare column beside them: an aggregate (hidden in a macro) is then refused
        beside = column_expr(inputs[0]) if inputs else SqlExpr(("c0",), VARCHAR)
        outputs = (*outputs, (Column(ColumnId(-1 - len(members)), "", VARCHAR), beside))
        source: Any = Input(0, inputs)
        query = render(Project(source, outputs), [f"(SELECT {empty or 'NULL AS c0'}) AS r"])
        try:
            described = duck.probe(query.replace("AS c-", "AS x"))
        except Error:
            return None
        for index, (_, sql_type) in zip(members, described, strict=False):
            result[index] = replace(exprs[index], type=sql_type)
    return [expr for expr in result if expr is not None]
