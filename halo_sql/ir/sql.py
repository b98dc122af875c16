"""Relational trees as SQL text.

Every relation in the text has columns ``c<id>``; the user's own text enters whole, inside sub-queries.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from halo_sql.ir.expr import ScopeTable, SqlExpr, quote
from halo_sql.ir.logical import CteScan, Distinct, Filter, Fragment, InputRef, Join, Limit, Project, Sort
from halo_sql.ir.physical import Input, batch_name
from halo_sql.ir.walk import output_columns

SCOPE = "__halo_scope"  # a relation that is read several times under the user's table names


def render(tree: Any, inputs: Sequence[str]) -> str:
    """The query text of a relational tree; ``inputs[i]`` is the SQL name of its i-th input relation.

    Column order and names of the result are those of ``output_columns(tree)``, as ``c<id>``.
    """
    if isinstance(tree, Input):
        return f"SELECT {_column_list(tree)} FROM {inputs[tree.index]}"
    if isinstance(tree, Fragment):
        return _fragment(tree, inputs)
    if isinstance(tree, Filter):
        before, source = _source(tree.input, [tree.predicate], inputs)
        return f"{before}SELECT {_column_list(tree)} FROM {source} WHERE {_text(tree.predicate)}"
    if isinstance(tree, Project):
        before, source = _source(tree.input, [expr for _, expr in tree.exprs], inputs)
        items = ", ".join(f"{_text(expr)} AS {batch_name(column.id)}" for column, expr in tree.exprs)
        return f"{before}SELECT {items or 'NULL'} FROM {source}"
    if isinstance(tree, Sort):
        before, source = _source(tree.input, [key.expr for key in tree.keys], inputs)
        keys = ", ".join(f"{_text(key.expr)} {key.modifiers}".rstrip() for key in tree.keys)
        return f"{before}SELECT {_column_list(tree)} FROM {source} ORDER BY {keys}"
    if isinstance(tree, Join):
        return _join(tree, inputs)
    source = _relation(tree.input, inputs)
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


def _join(tree: Join, inputs: Sequence[str]) -> str:
    nodes: tuple[Any, ...] = tree.inputs
    sides = [
        inputs[side.index] if isinstance(side, Input) else f"({render(side, inputs)}) AS j{place}"
        for place, side in enumerate(nodes)
    ]
    conditions = " AND ".join(_text(condition) for condition in tree.on)
    columns = _column_list(tree)
    if tree.kind == "left":
        return f"SELECT {columns} FROM {' LEFT JOIN '.join(sides)} ON {conditions or 'TRUE'}"
    where = f" WHERE {conditions}" if conditions else ""
    if tree.reduces:
        negated = "NOT " if tree.kind == "anti" else ""
        return f"SELECT {columns} FROM {sides[0]} WHERE {negated}EXISTS (SELECT 1 FROM {', '.join(sides[1:])}{where})"
    return f"SELECT {columns} FROM {', '.join(sides)}{where}"


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
    """The user's text as a sub-query. An input it reads more than once is computed once, in front of it."""
    refs = [part for part in tree.parts if isinstance(part, InputRef)]
    before, names = [], {}
    children: tuple[Any, ...] = tree.inputs
    for index, child in enumerate(children):
        repeated = sum(ref.index == index for ref in refs) > 1
        if repeated and not isinstance(child, Input):
            names[index] = f"{SCOPE}_{index}"
            before.append(f"{names[index]} AS MATERIALIZED ({render(child, inputs)})")
        else:
            names[index] = _relation(child, inputs)
    text = "".join(part if isinstance(part, str) else input_text(part, names[part.index]) for part in tree.parts)
    columns = ", ".join(batch_name(column.id) for column in tree.columns)
    clause = f"WITH {', '.join(before)} " if before else ""
    return f"{clause}SELECT * FROM ({text}\n) AS f({columns})"


def input_text(ref: InputRef, source: str) -> str:
    """An input of a fragment as a parenthesised query that shows the user's names."""
    items = ", ".join(f"{batch_name(column)} AS {quote(name)}" for name, column in ref.names)
    return f"(SELECT {items or 'NULL'} FROM {source})"


def _source(child: Any, exprs: Sequence[SqlExpr], inputs: Sequence[str]) -> tuple[str, str]:
    """A WITH clause ('' for none) and the FROM text that shows the input by id, and under the user's own table
    names where an expression asks for them.

    One table is a plain renaming; several are put side by side row by row, over an input computed once.
    """
    scopes = {expr.scope for expr in exprs if expr.scope}
    if not scopes:
        return "", _relation(child, inputs)
    assert len(scopes) == 1, "one node evaluates expressions of one scope"
    (scope,) = scopes
    if len(scope) == 1:
        table = scope[0]
        return "", f"(SELECT *, {_renamed(table)} FROM {_relation(child, inputs)}) AS {quote(table.alias)}"
    clause, source = "", _relation(child, inputs)
    if not isinstance(child, Input):
        clause, source = f"WITH {SCOPE} AS MATERIALIZED ({render(child, inputs)}) ", SCOPE
    sides = [f"(SELECT * FROM {source}) AS __halo_ids"]
    sides += [f"(SELECT {_renamed(table)} FROM {source}) AS {quote(table.alias)}" for table in scope]
    return clause, " POSITIONAL JOIN ".join(sides)


def _renamed(table: ScopeTable) -> str:
    return ", ".join(f"{batch_name(column)} AS {quote(name)}" for name, column in table.columns) or "NULL"
