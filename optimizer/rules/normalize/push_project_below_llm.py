"""What prompts are made of is computed below the first LLM node, so that LLM nodes become neighbours."""

from __future__ import annotations

from typing import Any

from halo_sql.ir.expr import Column, SqlExpr, column_expr
from halo_sql.ir.logical import Filter, LlmFilter, LlmMap, LogicalPlan, Project
from halo_sql.ir.walk import output_columns, with_children
from halo_sql.optimizer.nodes import cannot_fail, column_ids, is_llm, is_row_wise, pick, through_project
from halo_sql.optimizer.plan_context import PlanContext

Item = tuple[Column, SqlExpr]


def push_project_below_llm(node: Any, ctx: PlanContext) -> LogicalPlan | None:
    """``Project[f(a)](LLM(X)) => Project[v](LLM(Project[*, v := f(a)](X)))``.

    Safe below an LlmMap for any row-wise expression that reads none of its answers: the rows are the same.
    Safe below an LlmFilter (more rows) only for expressions that cannot fail, or a row that the
    filter takes out could raise an error::

        SELECT LLM_MAP('double {{ x::INTEGER }}') FROM t WHERE LLM_FILTER('is {{ x }} a number?')

    Volatile expressions and expressions over rebuilt names stay where they are.
    """
    if not isinstance(node, Project):
        return None
    current: Any = node.input
    taken = column_ids(current)
    moved = [item for item in node.exprs if _movable(item[1]) and item[0].id not in taken]
    moved = [item for item in moved if _may_pass(item[1], current)]
    path: list[Any] = []
    gained = 0  # nodes of the path down to the last LLM node
    while moved and all(_may_pass(expr, current) for _, expr in moved):
        path.append(current)
        if is_llm(current):
            gained = len(path)
        current = current.input
    if not gained:
        return None
    path = path[:gained]
    lower: Any = _project(path[-1].input, moved)
    for above in reversed(path):
        lower = with_children(above, (lower,))
    ids = {column.id for column, _ in moved}
    items = ((column, column_expr(column) if column.id in ids else expr) for column, expr in node.exprs)
    return Project(lower, tuple(items))


def _movable(expr: SqlExpr) -> bool:
    return expr.as_column() is None and is_row_wise(expr) and not expr.volatile


def _may_pass(expr: SqlExpr, node: Any) -> bool:
    if isinstance(node, LlmMap):
        return expr.columns() <= column_ids(node.input)
    return isinstance(node, LlmFilter | Filter) and cannot_fail(expr)


def _project(source: Any, items: list[Item]) -> Project:
    """The items beside all columns of ``source``, merged into it when it is a projection itself."""
    if isinstance(source, Project):
        merged = [(column, through_project(expr, source)) for column, expr in items]
        ready = [(column, expr) for column, expr in merged if expr is not None]
        if len(ready) == len(items):
            return Project(source.input, source.exprs + tuple(ready))
    return Project(source, pick(output_columns(source)) + tuple(items))
