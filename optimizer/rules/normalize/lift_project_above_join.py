"""Projections between LLM nodes and a join move above it, so that the LLM nodes are the join's neighbours."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from halo_sql.ir.expr import ColumnId
from halo_sql.ir.logical import Join, LogicalPlan, Project
from halo_sql.ir.walk import output_columns
from halo_sql.optimizer.nodes import column_ids, columns_of, is_over_llm, is_row_wise, pick
from halo_sql.optimizer.plan_context import PlanContext


def lift_project_above_join(node: Any, ctx: PlanContext) -> LogicalPlan | None:
    """``Join(Project[a, f(b)](LLM(X)), Y) => Project[a, f(b), Y's](Join(LLM(X), Y))``.

    Safe: a pair's f(b) is that of its row. Not for an f that the join's conditions read, that is volatile or needs
    names rebuilt, and not on the right of a left join, where f(NULL) need not be NULL::

        SELECT * FROM t LEFT JOIN (SELECT k, coalesce(LLM_MAP('a {{ b }}'), '-') AS s FROM u) x USING (k)

    Nor above a source: DuckDB joins what it projects in one query.
    """
    if not isinstance(node, Join):
        return None
    for place, side in enumerate(node.inputs):
        if isinstance(side, Project) and is_over_llm(side.input) and _movable(node, place, side):
            return _lifted(node, place, side)
    return None


def _movable(join: Join, place: int, project: Project) -> bool:
    computed = {column.id for column, expr in project.exprs if expr.as_column() is None}
    if computed & columns_of(join.on) or (computed and join.kind == "left" and place):
        return False
    if not all(expr.as_column() is not None or (is_row_wise(expr) and not expr.volatile) for _, expr in project.exprs):
        return False
    others = _others(join.inputs, place)
    return column_ids(project.input).isdisjoint(column for other in others for column in column_ids(other))


def _others(inputs: Sequence[LogicalPlan], place: int) -> list[LogicalPlan]:
    return [*inputs[:place], *inputs[place + 1 :]]


def _lifted(join: Join, place: int, project: Project) -> Project:
    below: dict[ColumnId, ColumnId] = {}
    for column, expr in project.exprs:
        source = expr.as_column()
        if source is not None:
            below[column.id] = source
    inputs = (*join.inputs[:place], project.input, *join.inputs[place + 1 :])
    lower = replace(join, inputs=inputs, on=tuple(condition.remap(below) for condition in join.on))
    before = [column for side in join.inputs[:place] for column in output_columns(side)]
    behind = [column for side in join.inputs[place + 1 :] for column in output_columns(side)]
    return Project(lower, (*pick(before), *project.exprs, *pick(behind)))
