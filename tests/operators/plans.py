"""Nodes of physical plans for the tests, in few words."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from halo_sql.ir.expr import Column, ColumnId, ColumnRef, SqlExpr
from halo_sql.ir.logical import Filter, Fragment, InputRef, Project
from halo_sql.ir.physical import DuckFragmentExec, Input, LlmMapExec, PhysicalNode
from halo_sql.ir.prompt import Hole, LlmCall, Prompt
from halo_sql.ir.types import BIGINT, BOOLEAN, VARCHAR, SqlType


def columns(kit: Any) -> tuple[Column, Column]:
    return kit.column(0, BIGINT), kit.column(1)


def source(kit: Any, number: int = 0, rows: int = 5000, text: str = "'r' || i") -> PhysicalNode:
    return kit.query(number, f"SELECT i, {text} FROM range({rows}) t(i)", columns(kit))


def llm(kit: Any, number: int, below: PhysicalNode, output: int = 2, hole: int = 1, **options: Any) -> PhysicalNode:
    call = LlmCall(ColumnId(output), "map", Prompt((Hole(ColumnId(hole)),)), "echo")
    return PhysicalNode(number, LlmMapExec((call,), **options), (below.id,), (*below.columns, kit.column(output)))


def relation(
    number: int, inputs: Sequence[PhysicalNode], text: str, outputs: Sequence[Column], streaming: bool = False
) -> PhysicalNode:
    """A fragment over inputs; each ``{}`` in the text is the next of them."""
    leaves = tuple(Input(index, node.columns) for index, node in enumerate(inputs))
    parts: list[str | InputRef] = []
    for index, piece in enumerate(text.split("{}")):
        if index:
            names = tuple((f"n{column.id}", column.id) for column in inputs[index - 1].columns)
            parts.append(InputRef(index - 1, names))
        parts.append(piece)
    tree = Fragment(tuple(parts), tuple(outputs), leaves)  # type: ignore[arg-type]  # Input stands for a plan
    return PhysicalNode(number, DuckFragmentExec(tree, streaming), tuple(node.id for node in inputs), tuple(outputs))


def row_wise(number: int, below: PhysicalNode, kit: Any, text: str, kind: SqlType = VARCHAR) -> PhysicalNode:
    """A streaming fragment: columns 0 and 7, the latter computed from column 1; rows with c0 % 3 = 0 only."""
    leaf: Any = Input(0, below.columns)
    keep = Filter(leaf, SqlExpr((ColumnRef(ColumnId(0)), " % 3 = 0"), BOOLEAN, row_wise=True))
    first, new = below.columns[0], kit.column(7, kind)
    before, _, after = text.partition("{}")
    parts = tuple(part for part in (before, ColumnRef(ColumnId(1)), after) if part != "")
    tree = Project(keep, ((first, SqlExpr((ColumnRef(first.id),), first.type)), (new, SqlExpr(parts, kind))))
    return PhysicalNode(number, DuckFragmentExec(tree, True), (below.id,), (first, new))
