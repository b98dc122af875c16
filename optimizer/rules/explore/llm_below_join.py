"""LLM nodes on one side of a join, over its rows that find partners: a row is looked at once, not once per partner."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from halo_sql.ir.expr import ColumnId
from halo_sql.ir.logical import Filter, Join, LogicalPlan, Project
from halo_sql.ir.walk import output_columns
from halo_sql.optimizer.memo import Memo
from halo_sql.optimizer.nodes import column_ids, columns_of, is_llm, is_volatile, leaves_out, pick, reads
from halo_sql.optimizer.plan_context import PlanContext
from halo_sql.optimizer.rules.explore.reducing import narrowed, readable_twice


def llm_below_join(expr: Any, memo: Memo, ctx: PlanContext) -> list[LogicalPlan]:
    """``LLM(Join[p](X, Y)) => Join[p](LLM(Join semi[p](X, Y)), Y)`` when the calls read columns of X only, which is one
    input of the join or several.

    Safe: the semi-join (Bernstein and Chiu, JACM 1981) keeps the rows of X that the join keeps, so the calls are the
    same, and so are their errors. It pays when rows have many partners: DuckDB joins twice, but the operator reads
    X's rows instead of all pairs. Not for volatile calls (one per pair), and not when X or Y may differ from one
    reading to the next: only tables are read twice, not views, functions or samples::

        SELECT * FROM (SELECT x, random() AS r FROM t) a, u WHERE LLM_FILTER('a {{ a.x }}')
    """
    if not is_llm(expr) or is_volatile(expr):
        return []
    found: list[LogicalPlan] = []
    read = reads(expr)
    for join, kept in _joins(expr.input, memo):
        sides = [narrowed(side, kept) for side in join.inputs if read & column_ids(side)]
        others = tuple(narrowed(side, kept) for side in join.inputs if not read & column_ids(side))
        if sides and others and all(readable_twice(side, memo, ctx) for side in join.inputs):
            pairs = _on_side(expr, join, sides, others, memo)
            wanted = column_ids(expr)
            found.append(Project(pairs, pick(column for column in output_columns(pairs) if column.id in wanted)))
    return found


def _joins(group: Any, memo: Memo) -> Iterator[tuple[Join, frozenset[ColumnId]]]:
    """The inner joins that are a group's rows, and the columns of them that it keeps or they read."""
    for expr in memo.expressions(group):
        for join in memo.expressions(expr.input) if isinstance(expr, Project) and leaves_out(expr) else (expr,):
            if isinstance(join, Join) and join.kind == "inner":
                yield join, column_ids(group) | columns_of(join.on)


def _on_side(expr: Any, join: Join, sides: list[LogicalPlan], others: tuple[LogicalPlan, ...], memo: Memo) -> Join:
    own: frozenset[ColumnId] = frozenset().union(*(column_ids(side) for side in sides))
    inside = tuple(condition for condition in join.on if condition.columns() <= own)
    between = tuple(condition for condition in join.on if not condition.columns() <= own)
    side = Join(tuple(sides), inside) if len(sides) > 1 else _filtered(sides[0], inside)
    reduced = memo.group(memo.insert(Join((side, *others), between, "semi")))
    whole = memo.group(expr.input).profile.inputs
    if whole and not reduced.profile.inputs:  # what is asked is the same
        reduced.profile = replace(reduced.profile, inputs=whole)
    return Join((replace(expr, input=memo.ref(reduced.id)), *others), between)


def _filtered(side: LogicalPlan, conditions: tuple[Any, ...]) -> LogicalPlan:
    for condition in conditions:
        side = Filter(side, condition)
    return side
