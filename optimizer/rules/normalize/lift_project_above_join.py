"""Projections between LLM nodes and a join move above it, so that the LLM nodes are the join's neighbours."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from halo_sql.ir.expr import Column, ColumnId, SqlExpr
from halo_sql.ir.logical import Join, LogicalPlan, Project
from halo_sql.ir.walk import output_columns
from halo_sql.optimizer.nodes import column_ids, columns_of, is_over_llm, is_row_wise, pick
from halo_sql.optimizer.plan_context import PlanContext

Item = tuple[Column, SqlExpr]


def lift_project_above_join(node: Any, ctx: PlanContext) -> LogicalPlan | None:
    """``Join(Project[a, f(b)](LLM(X)), Y) => Project[a, f(b), Y's](Join(LLM(X), Y))``, on all sides at once.

    Safe: a pair's f(b) is that of its row. Not for an f that the join's conditions read, that is volatile or needs
    names rebuilt, and not on the right of a left join, where f(NULL) need not be NULL::

        SELECT * FROM t LEFT JOIN (SELECT k, coalesce(LLM_MAP('a {{ b }}'), '-') AS s FROM u) x USING (k)

    Of a semi or anti-join only the first side's f(b) are seen. Nor above a source: DuckDB joins what it projects in one
    query.
    """
    if not isinstance(node, Join):
        return None
    lower = node
    shown: list[tuple[Item, ...]] = []
    columns = [column_ids(side) for side in node.inputs]
    everywhere = frozenset[ColumnId]().union(*columns)
    for place, side in enumerate(node.inputs):
        others = everywhere - columns[place]
        if isinstance(side, Project) and is_over_llm(side.input) and _movable(lower, place, side, others):
            lower = _over_input(lower, place, side)
            shown.append(side.exprs)
            everywhere = others | column_ids(side.input)
        else:
            shown.append(pick(output_columns(side)))
    seen = shown[:1] if node.reduces else shown
    return None if lower is node else Project(lower, tuple(item for items in seen for item in items))


def _movable(join: Join, place: int, project: Project, others: frozenset[ColumnId]) -> bool:
    computed = {column.id for column, expr in project.exprs if expr.as_column() is None}
    if computed & columns_of(join.on) or (computed and join.kind == "left" and place):
        return False
    if not all(expr.as_column() is not None or (is_row_wise(expr) and not expr.volatile) for _, expr in project.exprs):
        return False
    return column_ids(project.input).isdisjoint(others)


def _over_input(join: Join, place: int, project: Project) -> Join:
    """The join over what the projection reads, its conditions too."""
    below: dict[ColumnId, ColumnId] = {}
    for column, expr in project.exprs:
        source = expr.as_column()
        if source is not None:
            below[column.id] = source
    inputs = (*join.inputs[:place], project.input, *join.inputs[place + 1 :])
    return replace(join, inputs=inputs, on=tuple(condition.remap(below) for condition in join.on))
