"""Stacks of calls and expressions, made by hand or by chance."""

from __future__ import annotations

import random
from typing import Any

from halo_sql.ir.expr import Column, ColumnId, ColumnRef, SqlExpr
from halo_sql.ir.logical import Fragment, Project
from halo_sql.ir.physical import (
    DuckFragmentExec,
    Input,
    LlmMapExec,
    PhysicalDag,
    PhysicalNode,
    RowGraphExec,
    SelectExec,
)
from halo_sql.ir.prompt import Hole, LlmCall, Prompt
from halo_sql.ir.types import BIGINT, BOOLEAN, VARCHAR
from halo_sql.optimizer.pipeline import row_graphs


def source(count: int, text: str = "'r' || i") -> PhysicalNode:
    found = (Column(ColumnId(0), "i", BIGINT), Column(ColumnId(1), "t", VARCHAR))
    return PhysicalNode(
        0, DuckFragmentExec(Fragment((f"SELECT i, {text} FROM range({count}) t(i)",), found)), (), found
    )


def call(output: int, *holes: int, guard: int | None = None, **options: Any) -> LlmCall:
    pieces: list[Any] = [f"{output}("]
    for hole in holes:
        pieces += [Hole(ColumnId(hole)), ","]
    own = None if guard is None else ColumnId(guard)
    return LlmCall(ColumnId(output), "map", Prompt((*pieces, ")")), "echo", guard=own, **options)


class Stack:
    """Nodes one on top of the other."""

    def __init__(self, below: PhysicalNode) -> None:
        self.nodes = [below]

    @property
    def columns(self) -> tuple[Column, ...]:
        return self.nodes[-1].columns

    def put(self, op: Any, columns: tuple[Column, ...]) -> None:
        self.nodes.append(PhysicalNode(len(self.nodes), op, (len(self.nodes) - 1,), columns))

    def ask(self, *calls: LlmCall, **options: Any) -> None:
        added = tuple(Column(each.output, f"n{each.output}", VARCHAR) for each in calls)
        failed = options.get("failed")
        more = () if failed is None else (failed.column,)
        self.put(LlmMapExec(calls, **options), (*self.columns, *added, *more))

    def compute(self, *items: tuple[int, str, Any]) -> None:
        """(new column, text with ``{n}`` for column n, type) beside the columns there are."""
        leaf: Any = Input(0, self.columns)
        exprs = [(column, SqlExpr((ColumnRef(column.id),), column.type, row_wise=True)) for column in self.columns]
        for new, text, kind in items:
            parts: list[Any] = []
            for index, piece in enumerate(text.replace("}", "{").split("{")):
                parts.append(ColumnRef(ColumnId(int(piece))) if index % 2 else piece)
            expr = SqlExpr(tuple(part for part in parts if part != ""), kind, row_wise=True)
            exprs.append((Column(ColumnId(new), f"n{new}", kind), expr))
        self.put(DuckFragmentExec(Project(leaf, tuple(exprs)), True), tuple(column for column, _ in exprs))

    def pick(self, *columns: int) -> None:
        known = {column.id: column for column in self.columns}
        found = [known[ColumnId(column)] for column in columns]
        self.put(SelectExec(tuple((column, column.id) for column in found)), tuple(found))

    def dag(self, graph: bool) -> PhysicalDag:
        nodes, root = row_graphs(self.nodes, len(self.nodes) - 1) if graph else (self.nodes, len(self.nodes) - 1)
        assert any(isinstance(node.op, RowGraphExec) for node in nodes) == graph
        return PhysicalDag(tuple(nodes), root)


def random_stack(seed: int) -> Stack:
    chance = random.Random(seed)
    stack = Stack(source(chance.choice([0, 1, 7, 60]), "CASE WHEN i % 5 > 0 THEN 't' || (i % 9) END"))
    distinct = seed % 3 == 0
    texts, guards, new = [1], [], 10
    for _ in range(chance.randint(3, 7)):
        if chance.random() < 0.5 or new == 10:
            calls = []
            for _ in range(chance.randint(1, 3)):
                holes = chance.sample(texts, min(len(texts), chance.randint(1, 2)))
                guard = chance.choice(guards) if guards and chance.random() < 0.4 else None
                calls.append(call(new, *holes, guard=guard, on_error=chance.choice(["null", "fail"])))
                new += 1
            stack.ask(*calls, distinct=distinct)
            texts += [int(each.output) for each in calls]
        else:
            one, other = chance.choice(texts), chance.choice(texts)
            stack.compute(
                (new, f"{{{one}}} || '/' || length({{{other}}})", VARCHAR),
                (new + 1, f"length({{{one}}}) % 2 = 0", BOOLEAN),
                (new + 2, "'constant'", VARCHAR),
                (new + 3, "{0} + 1", BIGINT),
            )
            texts += [new, new + 2]
            guards.append(new + 1)
            new += 4
    stack.ask(call(new, texts[-1]))
    stack.ask(call(new + 1, new))
    stack.pick(new + 1, 0, *texts[2:])
    return stack
