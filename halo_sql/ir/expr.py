"""Expressions: original SQL text with column references by id.

The binder never prints SQL from a syntax tree. An expression keeps the user's text, cut at its column
references, so that any column can be renamed by the plan without touching the rest.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import NewType

from halo_sql.ir.types import SqlType
from halo_sql.quick import quick_init

ColumnId = NewType("ColumnId", int)


@quick_init
@dataclass(frozen=True, slots=True)
class Column:
    """An output column of a plan node: identity, display name, type."""

    id: ColumnId
    name: str
    type: SqlType

    def __str__(self) -> str:
        return f"{self.name}#{self.id}"


@quick_init
@dataclass(frozen=True, slots=True)
class ColumnRef:
    """A reference to a column inside an expression's text."""

    id: ColumnId


@dataclass(frozen=True, slots=True)
class ScopeTable:
    """A FROM item as the user's text sees it: alias -> (visible name, column) pairs."""

    alias: str
    columns: tuple[tuple[str, ColumnId], ...]


@quick_init
@dataclass(frozen=True, slots=True)
class SqlExpr:
    """A scalar SQL expression.

    parts     text pieces and column references, in order
    type      its DuckDB type
    scope     not empty when the text still uses the user's names (sub-queries, lambdas, stars): it is
              then evaluated over these tables, rebuilt under their names, and may read every column of them
    volatile  evaluating it twice may give two results
    row_wise  nothing but built-in scalar functions over its columns: may run batch by batch on any connection
    """

    parts: tuple[str | ColumnRef, ...]
    type: SqlType
    scope: tuple[ScopeTable, ...] = ()
    volatile: bool = False
    row_wise: bool = False

    def columns(self) -> frozenset[ColumnId]:
        """Every column the expression may read."""
        found = {part.id for part in self.parts if isinstance(part, ColumnRef)}
        found.update(column for table in self.scope for _, column in table.columns)
        return frozenset(found)

    def as_column(self) -> ColumnId | None:
        """The column when the expression is nothing but a reference to one."""
        if len(self.parts) != 1 or self.scope:
            return None
        part = self.parts[0]
        return None if isinstance(part, str) else part.id

    def text(self, name_of: Callable[[ColumnId], str]) -> str:
        """The SQL text with each reference spelled by ``name_of``."""
        return "".join(part if isinstance(part, str) else name_of(part.id) for part in self.parts)

    def remap(self, columns: Mapping[ColumnId, ColumnId]) -> SqlExpr:
        """The same expression over renamed columns; ids not in ``columns`` stay."""
        parts = tuple(
            ColumnRef(columns.get(part.id, part.id)) if isinstance(part, ColumnRef) else part for part in self.parts
        )
        scope = tuple(
            replace(table, columns=tuple((name, columns.get(column, column)) for name, column in table.columns))
            for table in self.scope
        )
        return replace(self, parts=parts, scope=scope)


def column_expr(column: Column) -> SqlExpr:
    """The expression that is just this column."""
    return SqlExpr((ColumnRef(column.id),), column.type, row_wise=True)


def substitute(expr: SqlExpr, values: Mapping[ColumnId, SqlExpr]) -> SqlExpr:
    """``expr`` with some references replaced by (parenthesised) expressions; only without a scope."""
    assert not expr.scope
    parts: list[str | ColumnRef] = []
    volatile, row_wise = expr.volatile, expr.row_wise
    for part in expr.parts:
        value = values.get(part.id) if isinstance(part, ColumnRef) else None
        if value is None:
            parts.append(part)
        else:
            volatile, row_wise = volatile or value.volatile, row_wise and value.row_wise
            parts += value.parts if value.as_column() is not None else ("(", *value.parts, ")")
    return SqlExpr(join_text(parts), expr.type, (), volatile, row_wise)


def join_text(parts: Iterable[str | ColumnRef]) -> tuple[str | ColumnRef, ...]:
    """Parts with neighbouring text pieces merged and empty ones dropped (so equal expressions are equal)."""
    merged: list[str | ColumnRef] = []
    for part in parts:
        last = merged[-1] if merged else None
        if part == "":
            continue
        if isinstance(part, str) and isinstance(last, str):
            merged[-1] = last + part
        else:
            merged.append(part)
    return tuple(merged)


def quote(name: str) -> str:
    """A quoted SQL identifier."""
    return '"' + name.replace('"', '""') + '"'


def literal(text: str) -> str:
    """A quoted SQL string literal."""
    return "'" + text.replace("'", "''") + "'"
