"""One scan for several readers of a table that want different columns of it.

    Project_a(X), Project_b(X)  =>  Select_a(Project_ab(X)), Select_b(Project_ab(X))

Over the same X (by structure): a table whose columns cannot fail, filtered or sorted or not. Safe because only columns
and their texts (``CAST(c AS VARCHAR)``, which never fails) are added: a reader meets no error of what another computes,
and rows keep their order. Each column is read and kept once, where two scans would keep it twice.

Must not fire where something is computed, by a reader, a view or a generated column: ``SELECT LLM_MAP('{{ 1 // a }}')
FROM t`` beside ``SELECT LLM_MAP('{{ b }}') FROM t`` would fail the second statement with the first's division.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence, Set
from dataclasses import replace
from typing import Any

from halo_sql.ir.estimate import Estimate
from halo_sql.ir.expr import Column, ColumnId, ColumnRef, SqlExpr, column_expr
from halo_sql.ir.logical import Filter, Fragment, Limit, Project, Sort
from halo_sql.ir.physical import DuckFragmentExec, PhysicalNode, SelectExec
from halo_sql.ir.walk import output_columns
from halo_sql.optimizer.intern import form_of

_TABLE = re.compile(r'SELECT \* FROM (?:(?P<word>\w+)|"(?P<quoted>\w+)")\s*')

_Picks = tuple[tuple[Column, SqlExpr], ...]


def share_scans(
    nodes: Sequence[PhysicalNode], fresh: Callable[[], ColumnId], tables: Set[str]
) -> tuple[list[PhysicalNode], dict[int, int]]:
    """The nodes (inputs first, ids being places) with common scans, and the new places of the old nodes.

    ``fresh`` gives a column id that is not in use; ``tables`` are lower-case names that can only be of a table whose
    columns cannot fail.
    """
    scans: dict[object, list[tuple[int, _Picks, tuple[ColumnId, ...], Any]]] = {}
    for node in nodes:
        found = _scan(node, tables) if tables else None
        if found is not None:
            below, picks = found
            form = form_of(below)
            if form is not None:
                scans.setdefault(form[0], []).append((node.id, picks, form[1], below))
    first: dict[int, PhysicalNode] = {}  # place of its first reader -> the common scan
    picked: dict[int, tuple[int, SelectExec]] = {}  # reader -> place of the first one, and what it reads of the scan
    for readers in scans.values():
        if len(readers) < 2:
            continue
        place, _, ids, below = readers[0]
        wanted: dict[SqlExpr, Column] = {}
        for reader, picks, own, _ in readers:
            names = dict(zip(own, ids, strict=True))
            chosen = []
            for column, expr in picks:
                there = wanted.setdefault(expr.remap(names), replace(column, id=fresh()))
                chosen.append((column, there.id))
            picked[reader] = (place, SelectExec(tuple(chosen)))
        tree = Project(below, tuple((column, expr) for expr, column in wanted.items()))
        first[place] = replace(nodes[place], op=DuckFragmentExec(tree), columns=tuple(wanted.values()))
    return _rebuilt(nodes, first, picked)


def _scan(node: PhysicalNode, tables: Set[str]) -> tuple[Any, _Picks] | None:
    """What a node reads, and which columns and texts of them; None when it does more."""
    if node.inputs or not isinstance(node.op, DuckFragmentExec):
        return None
    tree: Any = node.op.tree
    if not _is_table(tree.input if isinstance(tree, Project) else tree, tables):
        return None
    if not isinstance(tree, Project):
        return tree, tuple((column, column_expr(column)) for column in output_columns(tree))
    if any(expr.scope or not (expr.as_column() is not None or _is_text(expr)) for _, expr in tree.exprs):
        return None
    return tree.input, tree.exprs


def _is_table(tree: Any, tables: Set[str]) -> bool:
    while isinstance(tree, Filter | Sort | Limit):
        tree = tree.input
    if not isinstance(tree, Fragment) or tree.inputs or len(tree.parts) != 1:
        return False
    found = _TABLE.fullmatch(str(tree.parts[0]))
    return found is not None and (found["word"] or found["quoted"]).lower() in tables


def _is_text(expr: SqlExpr) -> bool:
    """``CAST(column AS VARCHAR)``"""
    parts = expr.parts
    return len(parts) == 3 and isinstance(parts[1], ColumnRef) and (parts[0], parts[2]) == ("CAST(", " AS VARCHAR)")


def _rebuilt(
    nodes: Sequence[PhysicalNode], first: dict[int, PhysicalNode], picked: dict[int, tuple[int, SelectExec]]
) -> tuple[list[PhysicalNode], dict[int, int]]:
    result: list[PhysicalNode] = []
    place: dict[int, int] = {}
    scans: dict[int, int] = {}
    for node in nodes:
        if node.id in first:
            scans[node.id] = len(result)
            result.append(replace(first[node.id], id=len(result)))
        inputs = tuple(place[source] for source in node.inputs)
        made = replace(node, inputs=inputs)
        if node.id in picked:
            scan, op = picked[node.id]
            made = replace(node, op=op, inputs=(scans[scan],), estimate=Estimate(node.estimate.rows))
        place[node.id] = len(result)
        result.append(replace(made, id=len(result)))
    return result, place
