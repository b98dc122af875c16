"""Relational trees as SQL text.

Every relation in the text has columns ``c<id>``; the user's own text enters whole, inside sub-queries.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from halo_sql.ir.expr import ColumnId, SqlExpr, quote
from halo_sql.ir.logical import CteScan, Distinct, Filter, Fragment, InputRef, Limit, Project, Sort
from halo_sql.ir.physical import Input, batch_name
from halo_sql.ir.walk import output_columns


def render(tree: Any, inputs: Sequence[str]) -> str:
    """The query text of a relational tree; ``inputs[i]`` is the SQL name of its i-th input relation.

    Column order and names of the result are those of ``output_columns(tree)``, as ``c<id>``.
    """
    if isinstance(tree, Input):
        return f"SELECT {_column_list(tree)} FROM {inputs[tree.index]}"
    if isinstance(tree, Fragment):
        return _fragment(tree, inputs)
    source = _relation(tree.input, inputs)
    if isinstance(tree, Filter):
        scope = _scoped_source(tree.input, [tree.predicate], inputs)
        if scope:
            return f"SELECT {_column_list(tree)} FROM {scope} WHERE {_text(tree.predicate)}"
        return f"SELECT * FROM {source} WHERE {_text(tree.predicate)}"
    if isinstance(tree, Project):
        scope = _scoped_source(tree.input, [expr for _, expr in tree.exprs], inputs)
        items = ", ".join(f"{_text(expr)} AS {batch_name(column.id)}" for column, expr in tree.exprs)
        return f"SELECT {items} FROM {scope or source}"
    if isinstance(tree, Sort):
        scope = _scoped_source(tree.input, [key.expr for key in tree.keys], inputs)
        keys = ", ".join(f"{_text(key.expr)} {key.modifiers}".rstrip() for key in tree.keys)
        return f"SELECT {_column_list(tree)} FROM {scope or source} ORDER BY {keys}"
    if isinstance(tree, Limit):
        count = "" if tree.count is None else f" LIMIT {tree.count}"
        return f"SELECT * FROM {source}{count}" + (f" OFFSET {tree.offset}" if tree.offset else "")
    if isinstance(tree, Distinct):
        return f"SELECT DISTINCT * FROM {source}"
    if isinstance(tree, CteScan):
        pairs = zip(output_columns(tree.input), tree.columns, strict=True)
        items = ", ".join(f"{batch_name(old.id)} AS {batch_name(new.id)}" for old, new in pairs)
        return f"SELECT {items} FROM {source}"
    raise AssertionError(f"not relational: {type(tree).__name__}")


def _relation(tree: Any, inputs: Sequence[str]) -> str:
    if isinstance(tree, Input):
        return inputs[tree.index]
    return f"({render(tree, inputs)}) AS r"


def _text(expr: SqlExpr) -> str:
    text = expr.text(batch_name)
    return text if expr.as_column() is not None else f"({text})"


def _column_list(tree: Any) -> str:
    return ", ".join(batch_name(column.id) for column in output_columns(tree)) or "NULL"


def _fragment(tree: Fragment, inputs: Sequence[str]) -> str:
    text = "".join(part if isinstance(part, str) else input_text(part, tree, inputs) for part in tree.parts)
    names = ", ".join(batch_name(column.id) for column in tree.columns)
    return f"SELECT * FROM ({text}\n) AS f({names})"


def input_text(ref: InputRef, tree: Fragment, inputs: Sequence[str]) -> str:
    """An input of a fragment as a parenthesised query that shows the user's names."""
    child = tree.inputs[ref.index]
    source = _relation(child, inputs)
    items = ", ".join(f"{batch_name(column)} AS {quote(name)}" for name, column in ref.names)
    return f"(SELECT {items} FROM {source})"


def _scoped_source(child: Any, exprs: Sequence[SqlExpr], inputs: Sequence[str]) -> str:
    """The FROM text that shows the input both by id and under the user's own table names; '' when no one asks.

    One table is a plain renaming; several are put side by side row by row.
    """
    scopes = {expr.scope for expr in exprs if expr.scope}
    if not scopes:
        return ""
    assert len(scopes) == 1, "one node evaluates expressions of one scope"
    (scope,) = scopes
    source = _relation(child, inputs)
    if len(scope) == 1:
        table = scope[0]
        renamed = ", ".join(f"{batch_name(column)} AS {quote(name)}" for name, column in table.columns)
        return f"(SELECT *, {renamed} FROM {source}) AS {quote(table.alias)}"
    sides = [f"(SELECT * FROM {source}) AS __halo_ids"]
    for table in scope:
        renamed = ", ".join(f"{batch_name(column)} AS {quote(name)}" for name, column in table.columns)
        sides.append(f"(SELECT {renamed} FROM {source}) AS {quote(table.alias)}")
    return " POSITIONAL JOIN ".join(sides)


def referenced(ids: Sequence[ColumnId]) -> str:
    """A comma-separated list of column names for these ids."""
    return ", ".join(batch_name(column) for column in ids)
