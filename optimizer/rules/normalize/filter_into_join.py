"""A filter on joined rows is a condition of the join."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from halo_sql.ir.expr import SqlExpr
from halo_sql.ir.logical import Filter, Join, LogicalPlan, Project
from halo_sql.optimizer.nodes import column_ids, is_row_wise, through_project
from halo_sql.optimizer.plan_context import PlanContext


def filter_into_join(node: Any, ctx: PlanContext) -> LogicalPlan | None:
    """``Filter[p](Join[q](X, Y)) => Join[q, p](X, Y)``; of a left, semi or anti-join
    ``Join left(Filter[p](X), Y)`` when p reads X only; both past a projection.

    Safe: an inner join's conditions and those above it hold for the same rows; the others keep all that becomes of a
    row of X, or nothing. Which rows DuckDB evaluates p for first is its own choice in both forms. Not for volatile
    predicates or such as need names rebuilt, and not for a p over what a left join may have filled with NULLs::

        SELECT * FROM a LEFT JOIN b USING (k) WHERE b.x IS NULL
    """
    if not isinstance(node, Filter):
        return None
    project = node.input if isinstance(node.input, Project) else None
    join: Any = node.input if project is None else project.input
    predicate = node.predicate if project is None else _below(node.predicate, project)
    if not isinstance(join, Join) or predicate is None or predicate.volatile or not is_row_wise(predicate):
        return None
    first, *others = join.inputs
    if join.kind == "inner":
        join = replace(join, on=(*join.on, predicate))
    elif predicate.columns() and predicate.columns() <= column_ids(first):
        join = replace(join, inputs=(Filter(first, predicate), *others))
    else:
        return None
    return join if project is None else replace(project, input=join)


def _below(predicate: SqlExpr, project: Project) -> SqlExpr | None:
    if not all(value.as_column() is not None or is_row_wise(value) for _, value in project.exprs):
        return None
    return through_project(predicate, project)
